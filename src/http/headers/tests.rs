//! The expectations were taken from Envoy 1.40.

use super::*;
use crate::matcher::CidrRange;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn admit_request(headers: &mut HeaderMap, rules: &HeaderRules, downstream: &Downstream, random: u128) -> Origin {
    super::admit_request(headers, rules, downstream, random).unwrap()
}

fn peer() -> Downstream {
    Downstream::new("198.51.100.7".parse().ok(), Some(8443), false)
}

fn edge() -> HeaderRules {
    HeaderRules { use_remote_address: true, ..HeaderRules::default() }
}

fn internal_networks() -> InternalAddresses {
    InternalAddresses { cidr_ranges: vec![CidrRange::new("10.0.0.0".parse().unwrap(), 8).unwrap()], unix_sockets: true }
}

#[test]
fn hop_by_hop_headers_stay_behind() {
    for (sent, kept) in [
        (&[("connection", "close"), ("x-foo", "1")][..], &["x-foo"][..]),
        (&[("connection", "keep-alive"), ("keep-alive", "timeout=5")], &[]),
        (&[("connection", "X-Foo , x-bar"), ("x-foo", "1"), ("x-bar", "2"), ("x-baz", "3")], &["x-baz"]),
        (&[("connection", "x-foo"), ("connection", "x-bar"), ("x-foo", "1"), ("x-bar", "2")], &[]),
        (&[("connection", "authorization"), ("authorization", "b")], &[]),
        (&[("te", "gzip")], &[]),
        (&[("te", "gzip;q=0.5, trailers;q=0.1")], &[]),
        (&[("te", "trailers, gzip")], &["te"]),
        (&[("connection", "te"), ("te", "trailers")], &["te"]),
        (&[("proxy-connection", "keep-alive"), ("transfer-encoding", "chunked"), ("upgrade", "h2c")], &[]),
        (&[("upgrade", "h2c"), ("http2-settings", "AAAA")], &[]),
        (&[("trailer", "x"), ("proxy-authorization", "x")], &["proxy-authorization", "trailer"]),
    ] {
        let mut headers = headers(sent);
        remove_hop_by_hop(&mut headers, false).unwrap();
        assert_eq!(names(&headers), kept, "{sent:?}");
        assert!(text(&headers, "te").is_none_or(|te| te == "trailers"));
    }
}

#[test]
fn upgrades_keep_their_headers_only() {
    let mut headers = headers(&[
        ("connection", "keep-alive, Upgrade, x-foo"),
        ("upgrade", "websocket"),
        ("x-foo", "1"),
        ("keep-alive", "1"),
        ("sec-websocket-key", "k"),
    ]);
    remove_hop_by_hop(&mut headers, true).unwrap();
    assert_eq!(names(&headers), ["connection", "sec-websocket-key", "upgrade"]);
    assert_eq!(text(&headers, "connection"), Some("Upgrade"));
}

#[test]
fn what_others_rely_on_cannot_be_nominated() {
    for connection in ["x-forwarded-for", "te, X-Forwarded-Host", "x-forwarded-proto", "host", "te, :path", "a b"] {
        let mut headers = headers(&[("connection", connection)]);
        assert_eq!(remove_hop_by_hop(&mut headers, false), Err(ConnectionHeaderRejected), "{connection}");
    }
    let many = |count| headers(&[("connection", vec!["x"; count].join(",").as_str())]);
    assert_eq!(remove_hop_by_hop(&mut many(10), false), Ok(()));
    assert_eq!(remove_hop_by_hop(&mut many(11), false), Err(ConnectionHeaderRejected));
}

#[test]
fn an_edge_proxy_appends_its_peer() {
    for (came, hops, goes, client) in [
        (None, 0, "198.51.100.7", "198.51.100.7"),
        (Some(""), 0, "198.51.100.7", "198.51.100.7"),
        (Some("1.2.3.4"), 0, "1.2.3.4,198.51.100.7", "198.51.100.7"),
        (Some("1.2.3.4"), 1, "1.2.3.4,198.51.100.7", "1.2.3.4"),
        (Some("1.2.3.4, 5.6.7.8"), 1, "1.2.3.4, 5.6.7.8,198.51.100.7", "5.6.7.8"),
        (Some("1.2.3.4, 5.6.7.8"), 2, "1.2.3.4, 5.6.7.8,198.51.100.7", "1.2.3.4"),
        (Some("1.2.3.4"), 2, "1.2.3.4,198.51.100.7", "198.51.100.7"),
        (Some("bogus"), 1, "bogus,198.51.100.7", "198.51.100.7"),
        (Some("1.2.3.4:80"), 1, "1.2.3.4:80,198.51.100.7", "198.51.100.7"),
        (Some("::1"), 1, "::1,198.51.100.7", "::1"),
    ] {
        let mut headers = came.map_or_else(HeaderMap::new, |xff| headers(&[("x-forwarded-for", xff)]));
        let rules = HeaderRules { xff_num_trusted_hops: hops, ..edge() };
        let origin = admit_request(&mut headers, &rules, &peer(), 0);
        assert_eq!(text(&headers, "x-forwarded-for"), Some(goes));
        assert_eq!(origin, Origin { client: client.parse().ok(), internal: false }, "{came:?} {hops}");
        assert_eq!(text(&headers, "x-envoy-external-address"), Some(client));
    }
}

#[test]
fn an_inner_proxy_believes_its_peer() {
    for (came, hops, client, internal) in [
        (None, 0, "198.51.100.7", false),
        (Some("1.2.3.4"), 0, "1.2.3.4", false),
        (Some("10.0.0.1"), 0, "10.0.0.1", true),
        (Some("1.2.3.4, 10.0.0.1"), 0, "10.0.0.1", false),
        (Some("10.0.0.2,10.0.0.1"), 1, "10.0.0.2", false),
        (Some("10.0.0.1"), 1, "198.51.100.7", false),
        (Some("[::1]:80"), 0, "198.51.100.7", false),
    ] {
        let mut headers = came.map_or_else(HeaderMap::new, |xff| headers(&[("x-forwarded-for", xff)]));
        let rules = HeaderRules {
            xff_num_trusted_hops: hops,
            internal_addresses: internal_networks(),
            ..HeaderRules::default()
        };
        let origin = admit_request(&mut headers, &rules, &peer(), 0);
        assert_eq!(origin, Origin { client: client.parse().ok(), internal }, "{came:?} {hops}");
        assert_eq!(text(&headers, "x-forwarded-for"), came);
        assert_eq!(text(&headers, "x-envoy-internal"), internal.then_some("true"));
        assert_eq!(text(&headers, "x-envoy-external-address"), None);
    }
}

#[test]
fn several_forwarded_for_lines_are_one_list() {
    let mut headers = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]);
    let rules = HeaderRules { xff_num_trusted_hops: 3, ..edge() };
    let origin = admit_request(&mut headers, &rules, &peer(), 0);
    assert_eq!(origin.client, "1.1.1.1".parse().ok());
    assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    assert_eq!(text(&headers, "x-forwarded-for"), Some("1.1.1.1,2.2.2.2, 3.3.3.3,198.51.100.7"));
}

#[test]
fn a_direct_internal_client_is_trusted_by_an_edge_proxy() {
    let rules = HeaderRules { internal_addresses: internal_networks(), ..edge() };
    for downstream in [Downstream::new("10.1.2.3".parse().ok(), Some(80), false), Downstream::new(None, None, false)] {
        let mut headers = headers(&[("x-envoy-max-retries", "3"), ("x-request-id", "mine")]);
        assert!(admit_request(&mut headers, &rules, &downstream, 0).internal);
        assert_eq!(names(&headers)[0], "x-envoy-internal");
        assert_eq!(text(&headers, "x-envoy-max-retries"), Some("3"));
        assert_eq!(text(&headers, "x-request-id"), Some("mine"));
    }
}

#[test]
fn forwarded_proto_and_port() {
    let tls = Downstream::new("198.51.100.7".parse().ok(), Some(8443), true);
    for (rules, proto, port) in [
        (HeaderRules::default(), "ftp", "99"),
        (edge(), "https", "8443"),
        (HeaderRules { xff_num_trusted_hops: 1, ..edge() }, "ftp", "99"),
    ] {
        let rules = HeaderRules { append_x_forwarded_port: true, ..rules };
        let mut came = headers(&[("x-forwarded-proto", "ftp"), ("x-forwarded-port", "99")]);
        admit_request(&mut came, &rules, &tls, 0);
        assert_eq!((text(&came, "x-forwarded-proto"), text(&came, "x-forwarded-port")), (Some(proto), Some(port)));

        let mut absent = HeaderMap::new();
        admit_request(&mut absent, &rules, &tls, 0);
        assert_eq!(
            (text(&absent, "x-forwarded-proto"), text(&absent, "x-forwarded-port")),
            (Some("https"), Some("8443"))
        );
    }
    let mut headers = HeaderMap::new();
    admit_request(&mut headers, &HeaderRules::default(), &peer(), 0);
    assert_eq!(names(&headers), ["x-forwarded-proto", "x-request-id"]);
}

#[test]
fn clients_cannot_give_orders() {
    let names = ORDERS.iter().chain(&INTERNAL_ONLY).chain(&NOT_FROM_CLIENTS);
    let sent: Vec<_> = names.map(|name| (name.as_str(), "1")).collect();
    let sent =
        [&sent[..], &[("x-envoy-internal", "true"), ("x-envoy-attempt-count", "7"), ("x-envoy-foo", "1")]].concat();
    let remaining = |rules: &HeaderRules, xff: &str| {
        let mut headers = headers(&sent);
        headers.insert(X_FORWARDED_FOR, xff.parse().unwrap());
        admit_request(&mut headers, rules, &peer(), 0);
        headers.keys().filter(|name| name.as_str().starts_with("x-envoy-")).count()
    };
    let own = ["x-envoy-attempt-count", "x-envoy-foo"].len();
    // With x-envoy-external-address.
    assert_eq!(remaining(&edge(), "10.0.0.1"), own + 1);
    assert_eq!(remaining(&HeaderRules::default(), "10.0.0.1"), own + NOT_FROM_CLIENTS.len());
    let inner = HeaderRules { internal_addresses: internal_networks(), ..HeaderRules::default() };
    assert_eq!(remaining(&inner, "10.0.0.1"), sent.len());
}

#[test]
fn nobody_forwards_certificates() {
    for rules in [HeaderRules::default(), edge()] {
        let mut headers = headers(&[("x-forwarded-client-cert", "By=me")]);
        admit_request(&mut headers, &rules, &peer(), 0);
        assert_eq!(text(&headers, "x-forwarded-client-cert"), None);
    }
}

#[test]
fn orders_go_no_further() {
    let mut headers = headers(&[
        ("x-envoy-max-retries", "1"),
        ("x-envoy-upstream-stream-duration-ms", "1"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-envoy-foo", "1"),
    ]);
    remove_orders(&mut headers);
    assert_eq!(names(&headers), ["x-envoy-expected-rq-timeout-ms", "x-envoy-foo"]);
}

#[test]
fn request_ids() {
    let random = 0xffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff;
    let generated = Some("ffffffff-ffff-4fff-bfff-ffffffffffff");
    let id = |rules: &HeaderRules, came: Option<&str>| {
        let mut headers = came.map_or_else(HeaderMap::new, |id| headers(&[("x-request-id", id)]));
        admit_request(&mut headers, rules, &peer(), random);
        text(&headers, "x-request-id").map(str::to_owned)
    };
    assert_eq!(id(&HeaderRules::default(), None).as_deref(), generated);
    assert_eq!(id(&HeaderRules::default(), Some("mine")).as_deref(), Some("mine"));
    assert_eq!(id(&edge(), Some("mine")).as_deref(), generated);
    assert_eq!(
        id(&HeaderRules { preserve_external_request_id: true, ..edge() }, Some("mine")).as_deref(),
        Some("mine")
    );
    assert_eq!(id(&HeaderRules { generate_request_id: false, ..edge() }, Some("mine")).as_deref(), Some("mine"));
    assert_eq!(id(&HeaderRules { generate_request_id: false, ..edge() }, None), None);
    assert_eq!(request_id(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
}

#[test]
fn via_and_user_agent() {
    let rules = HeaderRules {
        via: Some(HeaderValue::from_static("1.1 edge")),
        user_agent: Some(UserAgent { cluster: HeaderValue::from_static("ingress"), node: None }),
        ..HeaderRules::default()
    };
    let mut request = headers(&[("via", "1.0 a"), ("user-agent", "curl")]);
    admit_request(&mut request, &rules, &peer(), 0);
    assert_eq!(text(&request, "via"), Some("1.0 a, 1.1 edge"));
    assert_eq!(text(&request, "user-agent"), Some("curl"));
    assert_eq!(text(&request, "x-envoy-downstream-service-cluster"), Some("ingress"));
    let mut bare = HeaderMap::new();
    admit_request(&mut bare, &rules, &peer(), 0);
    assert_eq!(text(&bare, "user-agent"), Some("ingress"));
}

#[test]
fn responses_bear_our_marks() {
    let request = headers(&[("x-request-id", "mine")]);
    let finished = |rules: &HeaderRules, came: &[(&str, &str)]| {
        let mut response = headers(came);
        finish_response(&mut response, rules, response_request_id(&request, rules));
        ["server", "via", "x-request-id"].map(|name| text(&response, name).map(str::to_owned).unwrap_or_default())
    };
    let came = [("server", "jetty"), ("x-request-id", "upstream"), ("via", "u")];
    let rules = HeaderRules {
        always_set_request_id_in_response: true,
        via: Some(HeaderValue::from_static("v")),
        ..HeaderRules::default()
    };
    assert_eq!(finished(&HeaderRules::default(), &came), ["envoy", "u", "upstream"]);
    assert_eq!(finished(&rules, &came), ["envoy", "u, v", "mine"]);
    for (server_header, with, without) in
        [(ServerHeader::AppendIfAbsent, "jetty", "envoy"), (ServerHeader::PassThrough, "jetty", "")]
    {
        let rules = HeaderRules { server_header, ..HeaderRules::default() };
        assert_eq!(finished(&rules, &came)[0], with);
        assert_eq!(finished(&rules, &[])[0], without);
    }
}
