//! `InternalRedirectPolicy`: redirects of the upstream that are followed here instead of by the client.

use http::{HeaderName, StatusCode};
use prost::Name;

use crate::{config::Field, proto};

/// A compiled `InternalRedirectPolicy`.
#[derive(Debug)]
pub struct InternalRedirectPolicy {
    /// How many redirects of one request are followed; 1 unless set.
    pub max_redirects: u32,
    /// Whether a redirect may lead from HTTP to HTTPS or back.
    pub allow_cross_scheme: bool,
    /// Headers of the redirect that the next request gets.
    pub headers_to_copy: Vec<HeaderName>,
    /// What the route that a redirect leads to must fulfil.
    pub predicates: Vec<RedirectPredicate>,
    status_codes: Vec<u16>,
}

/// What the route that a redirect leads to must fulfil.
#[derive(Debug)]
pub enum RedirectPredicate {
    /// No redirect of this route has led there before.
    PreviousRoutes,
    /// It is named here.
    AllowListedRoutes(Vec<String>),
    /// A redirect does not lead from HTTPS to HTTP.
    SafeCrossScheme,
}

/// What can be followed, and what is unless the configuration names codes.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
const DEFAULT: u16 = 302;

impl InternalRedirectPolicy {
    pub(super) fn from_proto(proto: &proto::route::InternalRedirectPolicy, field: Field<'_>) -> InternalRedirectPolicy {
        let proto::route::InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = proto;
        let mut status_codes = Vec::new();
        for (i, code) in redirect_response_codes.iter().enumerate() {
            match u16::try_from(*code).ok().filter(|code| REDIRECTS.contains(code)) {
                Some(code) => status_codes.push(code),
                None => field.key("redirect_response_codes").index(i).warning("is no redirect, and never followed"),
            }
        }
        if redirect_response_codes.is_empty() {
            status_codes.push(DEFAULT);
        }
        let list = field.key("predicates");
        let names = field.key("response_headers_to_copy");
        InternalRedirectPolicy {
            max_redirects: max_internal_redirects.as_ref().map_or(1, |max| max.value),
            allow_cross_scheme: *allow_cross_scheme_redirect,
            headers_to_copy: response_headers_to_copy
                .iter()
                .enumerate()
                .filter_map(|(i, name)| header_name(name, names.index(i)))
                .collect(),
            predicates: predicates
                .iter()
                .enumerate()
                .filter_map(|(i, proto)| RedirectPredicate::from_proto(proto, list.index(i)))
                .collect(),
            status_codes,
        }
    }

    /// `internal_redirect_action` and `max_internal_redirects`, which came before the policy.
    pub(super) fn from_deprecated(max_redirects: Option<u32>) -> InternalRedirectPolicy {
        InternalRedirectPolicy {
            max_redirects: max_redirects.unwrap_or(1),
            allow_cross_scheme: false,
            headers_to_copy: Vec::new(),
            predicates: Vec::new(),
            status_codes: vec![DEFAULT],
        }
    }

    /// Whether a response of this status is a redirect to be followed.
    #[must_use]
    pub fn follows(&self, status: StatusCode) -> bool {
        self.status_codes.contains(&status.as_u16())
    }
}

fn header_name(name: &str, field: Field<'_>) -> Option<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if name != http::header::HOST => Some(name),
        Ok(_) => {
            field.error("the host cannot be copied");
            None
        }
        Err(_) => {
            field.error("not a valid header name, or one that cannot be copied");
            None
        }
    }
}

impl RedirectPredicate {
    fn from_proto(proto: &proto::core::TypedExtensionConfig, field: Field<'_>) -> Option<RedirectPredicate> {
        let proto::core::TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name == proto::redirect_previous_routes::PreviousRoutesConfig::full_name() {
            return Some(RedirectPredicate::PreviousRoutes);
        }
        if type_name == proto::redirect_safe_cross_scheme::SafeCrossSchemeConfig::full_name() {
            return Some(RedirectPredicate::SafeCrossScheme);
        }
        if type_name == proto::redirect_allow_listed_routes::AllowListedRoutesConfig::full_name() {
            let proto::redirect_allow_listed_routes::AllowListedRoutesConfig { allowed_route_names } =
                field.unpack(any)?;
            return Some(RedirectPredicate::AllowListedRoutes(allowed_route_names));
        }
        field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve yet"));
        None
    }
}
