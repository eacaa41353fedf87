//! What a request must be before filters and routes see it: refuse what HTTP or the configuration does not allow, bring the rest
//! into the expected form.

use std::borrow::Cow;

use http::{HeaderValue, Method, StatusCode, Version, header, uri::PathAndQuery};

use super::{StripPort, Underscores, connection::Connection};
use crate::{
    filter::http::Stream,
    http::{
        Request, SchemeOfUpstream, authority, grpc, headers, is_authority, local_reply::LocalReply, path,
        path::Normalized, set_authority, upgrade::Upgrade,
    },
};

/// Refuses what HTTP or the configuration does not allow, and brings the rest into the form that filters and routes expect.
pub(super) fn admit(connection: &Connection, request: &mut Request, stream: &mut Stream) -> Result<(), LocalReply> {
    let manager = &connection.manager;
    if request.version() <= Version::HTTP_10
        && let (None, Some(host)) = (authority(request), &manager.http1.default_host_for_http_10)
    {
        let host = host.clone();
        set_authority(request, host);
    }
    admit_names(connection, request)?;
    admit_authority(connection, request)?;
    admit_path(connection, request)?;
    if manager.matches_upstream_scheme {
        request.extensions_mut().insert(SchemeOfUpstream);
    }
    let upgrade = request.method() != Method::CONNECT && request.extensions().get::<Upgrade>().is_some();
    let headers = request.headers_mut();
    if headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        // The codec has answered it.
        headers.remove(header::EXPECT);
        if !stream.timer.is_request_complete() {
            manager.responses.iter().for_each(|responses| responses.count(StatusCode::CONTINUE));
        }
    }
    headers::remove_hop_by_hop(headers, upgrade)
        .map_err(|error| LocalReply::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let random = connection.worker.random.next_u128();
    let origin =
        headers::admit_request(headers, &manager.headers, &connection.downstream, random).map_err(|rejected| {
            manager.stats.downstream_rq_rejected_via_ip_detection.inc();
            LocalReply::ip_detection_failed(rejected.0)
        })?;
    if let Some(scheme) = &manager.headers.scheme {
        stream.info.scheme = if scheme == "https" { "https" } else { "http" };
    }
    for mutations in &manager.early_mutations {
        mutations.apply_to_request(headers, &stream.info);
    }
    if origin.client != connection.info.remote.ip() {
        stream.info.trusted_client = origin.client.map(|ip| (ip, 0).into());
    }
    Ok(())
}

/// Applies `headers_with_underscores_action`.
fn admit_names(connection: &Connection, request: &mut Request) -> Result<(), LocalReply> {
    let manager = &connection.manager;
    if manager.underscores == Underscores::Allow {
        return Ok(());
    }
    let names: Vec<_> = request.headers().keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    let (codec, stats) = match request.version() {
        Version::HTTP_2 => ("http2", &manager.http2_stats),
        _ => ("http1", &manager.http1_stats),
    };
    if manager.underscores == Underscores::Reject && !names.is_empty() {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(LocalReply::unexpected_underscore(codec));
    }
    for name in names {
        request.headers_mut().remove(name);
        stats.dropped_headers_with_underscores.inc();
    }
    Ok(())
}

fn admit_authority(connection: &Connection, request: &mut Request) -> Result<(), LocalReply> {
    let manager = &connection.manager;
    let Some(host) = authority(request) else {
        return Err(LocalReply::missing_host());
    };
    if !is_authority(host.as_bytes()) || request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return Err(LocalReply::invalid_host());
    }
    if manager.strip_port == StripPort::No && !manager.strip_trailing_host_dot {
        return Ok(());
    }
    let (mut name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    };
    if manager.strip_trailing_host_dot {
        name = name.strip_suffix('.').unwrap_or(name);
    }
    let keep_port = match manager.strip_port {
        StripPort::No => true,
        StripPort::Any => false,
        StripPort::Matching => port.and_then(|port| port.parse().ok()) != connection.info.local.port(),
    };
    let stripped = match port {
        Some(port) if keep_port => format!("{name}:{port}"),
        _ => name.to_owned(),
    };
    if stripped != host
        && let Ok(value) = HeaderValue::from_str(&stripped)
    {
        set_authority(request, value);
    }
    Ok(())
}

fn admit_path(connection: &Connection, request: &mut Request) -> Result<(), LocalReply> {
    let stats = &connection.manager.stats;
    if request.method() == Method::CONNECT {
        // It names a host and port, not a path; what becomes of it is the route's affair.
        request.extensions_mut().insert(Upgrade(HeaderValue::from_static("connect")));
        return Ok(());
    }
    let Some(original) = request.uri().path_and_query() else {
        return Err(LocalReply::invalid_url());
    };
    if !original.as_str().starts_with('/') {
        stats.downstream_rq_non_relative_path.inc();
        return Err(LocalReply::absolute_path_rejected());
    }
    let (path, refusal) = match path::normalize(original.as_str(), connection.manager.path) {
        Normalized::Forward(Cow::Borrowed(_)) => return Ok(()),
        Normalized::Forward(Cow::Owned(path)) => (Some(path), None),
        // A gRPC client does not follow.
        Normalized::Redirect(location) if !grpc::is_grpc(request.headers()) => {
            stats.downstream_rq_redirected_with_normalized_path.inc();
            let reply = redirect(&location);
            (Some(location), Some(reply))
        }
        rejected => {
            stats.downstream_rq_failed_path_normalization.inc();
            let path = match rejected {
                Normalized::RejectUnescaped(path) | Normalized::Redirect(path) => Some(path),
                Normalized::Reject | Normalized::Forward(_) => None,
            };
            (path, Some(LocalReply::path_normalization_failed()))
        }
    };
    // What is refused is logged with its new path as well.
    let path = path.map(|path| PathAndQuery::try_from(path).map_err(|_| LocalReply::path_normalization_failed()));
    if let Some(path) = path.transpose()? {
        replace_path(request, path);
    }
    refusal.map_or(Ok(()), Err)
}

fn redirect(location: &str) -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed");
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers.insert(header::LOCATION, location);
    }
    reply
}

fn replace_path(request: &mut Request, path: PathAndQuery) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(path);
    *request.uri_mut() = http::Uri::from_parts(parts).expect("invariant: only the path of a valid URI was replaced");
}
