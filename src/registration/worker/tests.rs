//! What is wrong with a request is told field by field, all at once.

use super::*;
use crate::config::Report;

fn good() -> wire::RegisterRequest {
    wire::RegisterRequest {
        worker_id: "w1".to_owned(),
        service: "query".to_owned(),
        addresses: vec![address("10.0.0.1", 80)],
        ..wire::RegisterRequest::default()
    }
}

fn address(host: &str, port: u32) -> wire::Address {
    wire::Address { host: host.to_owned(), port, ..wire::Address::default() }
}

fn prefix(prefix: &str) -> wire::Route {
    wire::Route { r#match: Some(Match::PathPrefix(prefix.to_owned())), ..wire::Route::default() }
}

fn header(name: &str, value: &str) -> wire::Route {
    let header = wire::HeaderMatch { name: name.to_owned(), value: value.to_owned() };
    wire::Route { r#match: Some(Match::Header(header)), ..wire::Route::default() }
}

fn seconds(seconds: i64) -> Option<proto::Duration> {
    Some(proto::Duration { seconds, nanos: 0 })
}

fn problems(request: &wire::RegisterRequest) -> Vec<String> {
    let report = Report::new();
    let worker = Worker::from_proto(request, Field::root(&report));
    assert!(worker.is_some() || report.has_errors());
    report.into_problems().iter().map(ToString::to_string).collect()
}

/// The one problem of a good request with one change.
fn problem(change: impl FnOnce(&mut wire::RegisterRequest)) -> String {
    let mut request = good();
    change(&mut request);
    problems(&request).join("; ")
}

#[test]
fn a_good_request_is_taken_as_it_is() {
    let mut request = good();
    request.routes = vec![prefix("/worker/a/"), header("Envoy-Prefix", "a"), prefix("/")];
    let report = Report::new();
    let worker = Worker::from_proto(&request, Field::root(&report)).unwrap();
    let rewrite = |key: &RouteKey| worker.prefix_rewrite(key).map(|rewrite| &**rewrite);
    assert_eq!(worker.routes.len(), 3);
    assert_eq!(rewrite(&RouteKey::Prefix("/worker/a".into())), Some("/"));
    assert_eq!(rewrite(&RouteKey::Prefix("/".into())), Some("/"));
    assert_eq!(rewrite(&RouteKey::Header("envoy-prefix".into(), "a".into())), None);
    assert_eq!((worker.weight, worker.lease_time), (1, None));
}

#[test]
fn all_problems_are_told_at_once() {
    let request = wire::RegisterRequest {
        addresses: vec![address("10.0.0.1", 80), address("", 70_000)],
        routes: vec![prefix("/ok"), prefix("worker")],
        ..wire::RegisterRequest::default()
    };
    assert_eq!(
        problems(&request),
        [
            "worker_id: is required",
            "service: is required",
            "addresses[1].port: must be 1 to 65535, is 70000",
            "addresses[1].host: is required, or unix_socket",
            "routes[1].path_prefix: must start with \"/\"",
        ]
    );
}

#[test]
fn names() {
    for (name, expected) in [
        ("", "worker_id: is required"),
        ("a/b", "worker_id: may hold only A-Z a-z 0-9 . _ ~ @ : -"),
        ("a b", "worker_id: may hold only A-Z a-z 0-9 . _ ~ @ : -"),
        ("é", "worker_id: may hold only A-Z a-z 0-9 . _ ~ @ : -"),
        ("-a", "worker_id: must begin with a letter or digit"),
        ("query-7@host:80", ""),
    ] {
        assert_eq!(problem(|request| request.worker_id = name.to_owned()), expected, "{name:?}");
    }
    let long = problem(|request| request.service = "x".repeat(129));
    assert_eq!(long, "service: must have at most 128 characters, has 129");
}

#[test]
fn addresses() {
    let wrong_host = "addresses[0].host: must be an IP address (without brackets) or a DNS name";
    for (host, expected) in [
        ("worker.example.com", ""),
        ("worker_1", ""),
        ("Worker.Example.COM.", ""),
        ("::1", ""),
        ("[::1]", wrong_host),
        ("fe80::1%eth0", wrong_host),
        ("127.1", wrong_host),
        ("0x7f.1", wrong_host),
        ("2130706433", wrong_host),
        ("a..b", wrong_host),
        ("-a", wrong_host),
        ("a b", wrong_host),
        ("http://a", wrong_host),
    ] {
        assert_eq!(problem(|request| request.addresses = vec![address(host, 1)]), expected, "{host:?}");
    }
    for (path, expected) in [
        ("/run/w.sock", ""),
        ("w.sock", "addresses[0].unix_socket: must be an absolute path without \"..\""),
        ("@w", "addresses[0].unix_socket: must be an absolute path without \"..\""),
        ("/run/../etc/w", "addresses[0].unix_socket: must be an absolute path without \"..\""),
        ("/run/", "addresses[0].unix_socket: must be an absolute path without \"..\""),
    ] {
        let socket = wire::Address { unix_socket: path.to_owned(), ..wire::Address::default() };
        assert_eq!(problem(|request| request.addresses = vec![socket]), expected, "{path:?}");
    }
    assert_eq!(problem(|request| request.addresses.clear()), "addresses: needs at least one address");
    assert_eq!(
        problem(|request| request.addresses = vec![address("::ffff:10.0.0.1", 80), address("10.0.0.1", 80)]),
        "addresses[1]: is the same as addresses[0]"
    );
    assert_eq!(
        problem(|request| request.addresses[0].unix_socket = "/run/w".to_owned()),
        "addresses[0]: has both unix_socket and host or port"
    );
}

#[test]
fn routes() {
    for (path, expected) in [
        ("", "must start with \"/\""),
        ("worker", "must start with \"/\""),
        ("/a?b", "must not hold a query or a fragment"),
        ("/a//b", "must not hold an empty, \".\" or \"..\" segment"),
        ("//", "must not hold an empty, \".\" or \"..\" segment"),
        ("/a/../b", "must not hold an empty, \".\" or \"..\" segment"),
        ("/a b", "holds a character that must be percent-encoded"),
        ("/a%2", "holds a character that must be percent-encoded"),
    ] {
        let expected = format!("routes[0].path_prefix: {expected}");
        assert_eq!(problem(|request| request.routes = vec![prefix(path)]), expected, "{path:?}");
    }
    assert_eq!(problem(|request| request.routes = vec![prefix("/a%20b/c;d=e")]), "");
    assert_eq!(
        problem(|request| request.routes = vec![wire::Route::default()]),
        "routes[0]: needs path_prefix or header"
    );
    assert_eq!(
        problem(|request| request.routes = vec![prefix("/a"), header("x", "y"), prefix("/a/")]),
        "routes[2]: is the same as routes[0]"
    );
    assert_eq!(
        problem(|request| {
            request.routes = vec![prefix("/a")];
            request.routes[0].prefix_rewrite = Some(String::new());
        }),
        "routes[0].prefix_rewrite: must start with \"/\""
    );
}

#[test]
fn headers() {
    for (name, value, expected) in [
        ("", "v", "routes[0].header.name: is required"),
        ("a b", "v", "routes[0].header.name: is not the name of a header"),
        (":path", "v", "routes[0].header.name: is not the name of a header"),
        ("Host", "v", "routes[0].header.name: must not be the host header"),
        ("x", "", "routes[0].header.value: is required: an empty header matches no route"),
        ("x", "a b", "routes[0].header.value: may hold visible ASCII characters only"),
    ] {
        assert_eq!(problem(|request| request.routes = vec![header(name, value)]), expected, "{name:?}");
    }
    assert_eq!(
        problem(|request| {
            request.routes = vec![header("x", "y")];
            request.routes[0].prefix_rewrite = Some("/".to_owned());
        }),
        "routes[0].prefix_rewrite: goes with path_prefix only"
    );
}

#[test]
fn protocol_and_tls_fit() {
    let tls = || Some(wire::UpstreamTls::default());
    assert_eq!(
        problem(|request| request.set_protocol(Protocol::H2)),
        "protocol: PROTOCOL_H2 needs tls; in plain text it is PROTOCOL_H2C"
    );
    assert_eq!(
        problem(|request| {
            request.set_protocol(Protocol::H2c);
            request.tls = tls();
        }),
        "protocol: PROTOCOL_H2C excludes tls; with TLS it is PROTOCOL_H2"
    );
    assert_eq!(problem(|request| request.protocol = 9), "protocol: has the unknown value 9");
    assert_eq!(
        problem(|request| {
            request.addresses[0] = wire::Address { unix_socket: "/run/w".to_owned(), ..wire::Address::default() };
            request.tls = tls();
        }),
        "tls.sni: is required with unix_socket"
    );
    let both = wire::UpstreamTls { as_cluster: "x".to_owned(), sni: "y".to_owned(), ..wire::UpstreamTls::default() };
    assert_eq!(problem(|request| request.tls = Some(both)), "tls.as_cluster: excludes all other fields of tls");
}

#[test]
fn limits() {
    assert_eq!(problem(|request| request.weight = 1001), "weight: must be at most 1000");
    assert_eq!(problem(|request| request.lease_time = seconds(0)), "lease_time: must be at least 1s");
    assert_eq!(
        problem(|request| request.lease_time = seconds(-1)),
        "lease_time: must be a duration of 0s to 315576000000s"
    );
    let metadata = [("k".to_owned(), "v".repeat(1025))].into();
    assert_eq!(
        problem(|request| request.metadata = metadata),
        "metadata[\"k\"]: must have at most 1024 bytes, has 1025"
    );
}
