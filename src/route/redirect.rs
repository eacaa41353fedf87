//! `RedirectAction`: the URL that a client is sent to instead.

use http::{Request, StatusCode};

use super::rewrite::{Matched, PathRewrite, split_port};
use crate::{
    access_log::Scope,
    config::Field,
    http::{authority, headers::X_FORWARDED_PROTO},
    proto,
    stream_info::StreamInfo,
};

/// A compiled `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// 301 unless set.
    pub status: StatusCode,
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: RedirectPath,
    strip_query: bool,
    /// As `require_tls` does it: the host stays as it is, also with the default port of http.
    keep_port: bool,
}

#[derive(Debug)]
enum RedirectPath {
    Keep,
    Replace(String),
    Rewrite(PathRewrite),
}

impl Redirect {
    pub(super) fn from_proto(
        proto: &proto::route::RedirectAction,
        matched: Matched<'_>,
        field: Field<'_>,
    ) -> Option<Redirect> {
        use proto::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};

        let proto::route::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = proto;
        let status = match RedirectResponseCode::try_from(*response_code).unwrap_or_default() {
            RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            RedirectResponseCode::Found => StatusCode::FOUND,
            RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
            RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        };
        let port = u16::try_from(*port_redirect);
        if port.is_err() {
            field.key("port_redirect").error("must be at most 65535");
        }
        let path = match path_rewrite_specifier {
            None => Some(RedirectPath::Keep),
            Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Replace(path.clone())),
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                PathRewrite::prefix(prefix, matched, field.key("prefix_rewrite")).map(RedirectPath::Rewrite)
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
                PathRewrite::regex(regex, field.key("regex_rewrite")).map(RedirectPath::Rewrite)
            }
            Some(PathRewriteSpecifier::PathRewrite(format)) => {
                PathRewrite::format(format, field.key("path_rewrite")).map(RedirectPath::Rewrite)
            }
        };
        Some(Redirect {
            status,
            scheme: scheme_rewrite_specifier.as_ref().and_then(|scheme| match scheme {
                SchemeRewriteSpecifier::HttpsRedirect(https) => https.then(|| "https".to_owned()),
                SchemeRewriteSpecifier::SchemeRedirect(scheme) => Some(scheme.clone()),
            }),
            host: Some(host_redirect.clone()).filter(|host| !host.is_empty()),
            port: port.ok().filter(|port| *port != 0),
            path: path?,
            strip_query: *strip_query,
            keep_port: false,
        })
    }

    /// The redirect of `require_tls`: the same URL by https.
    pub(super) fn to_https() -> Redirect {
        Redirect { scheme: Some("https".to_owned()), ..Redirect::to_itself() }
    }

    /// The same URL.
    pub(super) fn to_itself() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
            keep_port: true,
        }
    }

    /// The `location` header of the answer to `request`.
    pub fn location<B>(&self, request: &Request<B>, info: &StreamInfo) -> String {
        let forwarded_proto = request.headers().get(X_FORWARDED_PROTO).and_then(|proto| proto.to_str().ok());
        let own_scheme = request.uri().scheme_str().or(forwarded_proto).unwrap_or("http");
        let scheme = self.scheme.as_deref().unwrap_or(own_scheme);
        let host = match &self.host {
            Some(host) => host,
            None => self.own_host(authority(request).unwrap_or_default(), scheme, forwarded_proto),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let scope = Scope::of_request(info, request.headers());
        let path = self.path(request.uri().path_and_query().map_or("/", |path| path.as_str()), &scope);
        let slash = if path.starts_with('/') { "" } else { "/" };
        [scheme, "://", host, &port, slash, &path].concat()
    }

    /// The host of the request. Its port goes if another is asked for, or if it was the default one of the scheme that changes.
    fn own_host<'a>(&self, host: &'a str, scheme: &str, forwarded_proto: Option<&str>) -> &'a str {
        let Some((name, port)) = split_port(host) else { return host };
        let default = match forwarded_proto {
            Some("https") => port == "443",
            Some("http") => port == "80",
            _ => false,
        };
        let leaves = default && Some(scheme) != forwarded_proto && !self.keep_port;
        if self.port.is_some() || leaves { name } else { host }
    }

    fn path(&self, path_and_query: &str, scope: &Scope<'_>) -> String {
        let query = path_and_query.find('?').map_or("", |at| &path_and_query[at..]);
        let mut path = match &self.path {
            // A query of its own goes before the request's, and stays.
            RedirectPath::Replace(path) if path.contains('?') => return path.clone(),
            RedirectPath::Replace(path) => [path, query].concat(),
            RedirectPath::Rewrite(rewrite) => {
                rewrite.apply(path_and_query, scope).unwrap_or_else(|| path_and_query.to_owned())
            }
            RedirectPath::Keep => path_and_query.to_owned(),
        };
        if self.strip_query {
            path.truncate(path.find('?').unwrap_or(path.len()));
        }
        path
    }
}
