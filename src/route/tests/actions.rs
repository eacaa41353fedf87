//! What routes do.

use std::{rc::Rc, time::Duration};

use super::{find, find_with, get, request, routes, table};
use crate::{
    route::{Action, Forward, MaxStreamDuration, RouteRef, UpgradeConfig},
    stream_info::StreamInfo,
};

fn forward(route: &RouteRef) -> &Forward {
    match &route.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn forward_has_envoys_defaults() {
    let table = routes("- {match: {prefix: /}, route: {cluster: up}}");
    let request = get("/");
    let route = find(&table, &request).unwrap();
    let forward = forward(&route);
    assert_eq!(route.cluster(&request), Some("up"));
    assert!(route.is_available());
    assert_eq!(forward.timeout, Some(Duration::from_secs(15)));
    assert_eq!(forward.idle_timeout, None);
    assert!(forward.max_stream_duration.is_none());
    assert!(forward.upgrade_configs.is_empty());
    assert_eq!(forward.cluster_not_found_status, 503);
}

#[test]
fn forward_as_configured() {
    let table = routes(
        "
- match: {prefix: /}
  name: all
  route:
    cluster: up
    timeout: 0s
    idle_timeout: 30s
    max_stream_duration: {max_stream_duration: 5s, grpc_timeout_header_max: 0s}
    upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: other, enabled: false}]
    cluster_not_found_response_code: NOT_FOUND
",
    );
    let route = find(&table, &get("/")).unwrap();
    let forward = forward(&route);
    assert_eq!(route.name, "all");
    assert_eq!(forward.timeout, None);
    assert_eq!(forward.idle_timeout, Some(Duration::from_secs(30)));
    let upgrade = |upgrade_type: &str, enabled| UpgradeConfig {
        upgrade_type: upgrade_type.to_owned(),
        enabled,
        ends_here: false,
    };
    assert_eq!(forward.upgrade_configs, [upgrade("websocket", true), upgrade("other", false)]);
    assert_eq!(forward.cluster_not_found_status, 404);
    assert_eq!(forward.max_stream_duration.unwrap().limit(None), Some(Duration::from_secs(5)));
}

#[test]
fn grpc_timeouts_limit_streams_where_allowed() {
    let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
    for (max, header_max, offset, asked, expected) in [
        (None, None, None, None, None),
        (None, None, None, Some(3), None),
        (Some(9), None, None, Some(3), Some(9)),
        (Some(0), None, None, None, Some(0)),
        (Some(9), Some(5), None, None, Some(9)),
        (Some(9), Some(5), None, Some(3), Some(3)),
        (Some(9), Some(5), None, Some(7), Some(5)),
        (None, Some(0), None, Some(7), Some(7)),
        (None, Some(5), None, Some(0), Some(5)),
        (None, Some(0), None, Some(0), Some(0)),
        (None, Some(0), Some(2), Some(7), Some(5)),
        (None, Some(0), Some(7), Some(7), Some(7)),
    ] {
        let limits = MaxStreamDuration {
            max_stream_duration: seconds(max),
            grpc_timeout_header_max: seconds(header_max),
            grpc_timeout_header_offset: seconds(offset),
        };
        assert_eq!(limits.limit(seconds(asked)), seconds(expected), "{limits:?} {asked:?}");
    }
}

#[test]
fn clusters_by_header() {
    let table = routes("- {match: {prefix: /}, route: {cluster_header: X-Cluster}}");
    let named = request("GET", "/", &[("x-cluster", "other")]);
    assert_eq!(find(&table, &named).unwrap().cluster(&named), Some("other"));
    let unnamed = get("/");
    assert_eq!(find(&table, &unnamed).unwrap().cluster(&unnamed), None);
}

#[test]
fn clusters_by_weight() {
    let table = routes(
        "
- match: {prefix: /}
  route:
    weighted_clusters:
      clusters: [{name: up, weight: 1}, {name: other, weight: 0}, {cluster_header: x-cluster, weight: 3}]
",
    );
    let request = request("GET", "/", &[("x-cluster", "third")]);
    let registered = Rc::default();
    for (random, expected) in [(0, "up"), (1, "third"), (3, "third"), (4, "up"), (u64::MAX, "third")] {
        let route = find_with(&table, &registered, &request, random).unwrap();
        assert_eq!(route.cluster(&request), Some(expected), "{random}");
        assert_eq!(route.clone().cluster(&request), Some(expected));
    }
}

/// The answers were taken from Envoy 1.40.
#[test]
fn redirects() {
    for (redirect, host, proto, path, location) in [
        ("https_redirect: true", "example.com", "http", "/a?q=1", "https://example.com/a?q=1"),
        ("https_redirect: false", "example.com", "http", "/", "http://example.com/"),
        ("scheme_redirect: FTP", "example.com", "http", "/a", "FTP://example.com/a"),
        ("host_redirect: new.host", "example.com:80", "http", "/a", "http://new.host/a"),
        ("host_redirect: 'n.h:99', https_redirect: true", "example.com", "http", "/a", "https://n.h:99/a"),
        ("port_redirect: 8443", "example.com", "http", "/a", "http://example.com:8443/a"),
        ("port_redirect: 8443", "example.com:9", "http", "/a", "http://example.com:8443/a"),
        ("https_redirect: true, port_redirect: 8443", "[::1]:80", "http", "/a", "https://[::1]:8443/a"),
        // The default port goes with its scheme.
        ("https_redirect: true", "example.com:80", "http", "/a", "https://example.com/a"),
        ("https_redirect: true", "example.com:443", "http", "/a", "https://example.com:443/a"),
        ("https_redirect: true", "example.com:8080", "http", "/a", "https://example.com:8080/a"),
        ("https_redirect: true", "[::1]:80", "http", "/a", "https://[::1]/a"),
        ("https_redirect: true", "[::1]", "http", "/a", "https://[::1]/a"),
        ("scheme_redirect: http", "example.com:80", "http", "/a", "http://example.com:80/a"),
        ("scheme_redirect: http", "example.com:443", "https", "/a", "http://example.com/a"),
        ("https_redirect: true", "example.com:443", "https", "/a", "https://example.com:443/a"),
        ("path_redirect: /np", "example.com", "http", "/path?a=1", "http://example.com/np?a=1"),
        ("path_redirect: '/np?z=1'", "example.com", "http", "/path?a=1", "http://example.com/np?z=1"),
        ("path_redirect: /np, strip_query: true", "example.com", "http", "/path?a=1", "http://example.com/np"),
        ("path_redirect: '/np?z=1', strip_query: true", "example.com", "http", "/?a", "http://example.com/np?z=1"),
        ("path_redirect: np", "example.com", "http", "/rel?a", "http://example.com/np?a"),
        ("prefix_rewrite: /nn/", "example.com", "http", "/x?a=1", "http://example.com/nn/x?a=1"),
        ("prefix_rewrite: /nn/, strip_query: true", "example.com", "http", "/x?a=1", "http://example.com/nn/x"),
        (
            r"regex_rewrite: {pattern: {regex: '^/re/([^/]+)'}, substitution: '/\1'}",
            "example.com",
            "http",
            "/re/foo/bar?a=/re/z",
            "http://example.com/foo/bar?a=/re/z",
        ),
        ("strip_query: true", "example.com", "http", "/a//b?c", "http://example.com/a//b"),
    ] {
        let table = routes(&format!("- {{match: {{prefix: /}}, redirect: {{{redirect}}}}}"));
        let mut request = get(path);
        request.headers_mut().insert("host", host.parse().unwrap());
        request.headers_mut().insert("x-forwarded-proto", proto.parse().unwrap());
        let Action::Redirect(redirect) = &find(&table, &request).unwrap().action else { panic!("{redirect}") };
        assert_eq!(redirect.location(&request, &StreamInfo::sample()), location, "{redirect:?}");
        assert_eq!(redirect.status, 301);
    }
}

#[test]
fn redirects_have_one_of_five_codes() {
    for (code, status) in [
        ("MOVED_PERMANENTLY", 301),
        ("FOUND", 302),
        ("SEE_OTHER", 303),
        ("TEMPORARY_REDIRECT", 307),
        ("PERMANENT_REDIRECT", 308),
    ] {
        let table = routes(&format!("- {{match: {{prefix: /}}, redirect: {{response_code: {code}}}}}"));
        let Action::Redirect(redirect) = &find(&table, &get("/")).unwrap().action else { panic!("{code}") };
        assert_eq!(redirect.status, status);
    }
}

#[test]
fn direct_responses() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let table = table(&format!(
        "
max_direct_response_body_size_bytes: 11
virtual_hosts:
- name: v
  domains: ['*']
  routes:
  - {{match: {{path: /inline}}, direct_response: {{status: 418, body: {{inline_string: tea}}}}}}
  - {{match: {{path: /file}}, direct_response: {{status: 200, body: {{filename: {}}}}}}}
  - {{match: {{path: /none}}, direct_response: {{status: 204}}}}
",
        file.path().display()
    ));
    for (path, status, body) in [("/inline", 418, "tea"), ("/file", 200, "from a file"), ("/none", 204, "")] {
        let Action::DirectResponse(response) = &find(&table, &get(path)).unwrap().action else { panic!("{path}") };
        assert_eq!((response.status.as_u16(), response.body.as_ref()), (status, body.as_bytes()), "{path}");
    }
}
