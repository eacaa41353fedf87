//! Which route a request gets.

use std::rc::Rc;

use http::Request;

use super::{find, find_with, get, name, request, routes, table};
use crate::{matcher::xxh64, route::Action, stream_info::StreamInfo};

#[test]
fn paths() {
    let table = routes(
        r"
- {name: sep, match: {path_separated_prefix: /sep}, direct_response: {status: 200}}
- {name: exact, match: {path: /exact}, direct_response: {status: 200}}
- {name: regex, match: {safe_regex: {regex: '/re/[0-9]+'}}, direct_response: {status: 200}}
- {name: any-case, match: {prefix: /Any/, case_sensitive: false}, direct_response: {status: 200}}
- {name: any-case-path, match: {path: /ANYPATH, case_sensitive: false}, direct_response: {status: 200}}
- {name: prefix, match: {prefix: /pre}, direct_response: {status: 200}}
",
    );
    for (path, expected) in [
        ("/sep", "sep"),
        ("/sep/", "sep"),
        ("/sep/x?y", "sep"),
        ("/sep?x", "sep"),
        ("/sepx", "-"),
        ("/Sep", "-"),
        ("/exact", "exact"),
        ("/exact?a=/b", "exact"),
        ("/exact/", "-"),
        ("/re/12", "regex"),
        ("/re/12?x", "regex"),
        ("/re/12/", "-"),
        ("/x/re/12", "-"),
        ("/aNy/x", "any-case"),
        ("/any", "-"),
        ("/anypath", "any-case-path"),
        ("/anypaths", "-"),
        ("/prefix", "prefix"),
        ("/pre?x", "prefix"),
        ("/Pre", "-"),
        ("/", "-"),
        ("/?/sep", "-"),
    ] {
        assert_eq!(name(&table, &get(path)), expected, "{path}");
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let table = routes(
        "
- {name: header, match: {prefix: /, headers: [{name: x}]}, direct_response: {status: 200}}
- {name: short, match: {prefix: /a}, direct_response: {status: 200}}
- {name: long, match: {prefix: /a/b}, direct_response: {status: 200}}
- {name: rest, match: {prefix: /}, direct_response: {status: 200}}
",
    );
    assert_eq!(name(&table, &get("/a/b/c")), "short");
    assert_eq!(name(&table, &get("/b")), "rest");
    assert_eq!(name(&table, &request("GET", "/a/b", &[("x", "1")])), "header");
}

#[test]
fn headers_and_grpc() {
    let table = routes(
        "
- match: {prefix: /, headers: [{name: envoy-prefix, string_match: {exact: w1}}, {name: ':method', string_match: {exact: POST}}]}
  name: both
  direct_response: {status: 200}
- {name: grpc, match: {prefix: /, grpc: {}}, direct_response: {status: 200}}
",
    );
    for (method, headers, expected) in [
        ("POST", &[("envoy-prefix", "w1")][..], "both"),
        ("GET", &[("envoy-prefix", "w1")], "-"),
        ("POST", &[("envoy-prefix", "w2")], "-"),
        ("POST", &[("content-type", "application/grpc")], "grpc"),
        ("POST", &[("content-type", "application/grpc+proto")], "grpc"),
        ("POST", &[("content-type", "application/grpc-web")], "-"),
    ] {
        assert_eq!(name(&table, &request(method, "/", headers)), expected, "{method} {headers:?}");
    }
}

#[test]
fn query_parameters() {
    let table = routes(
        "
- match: {path: /exact, query_parameters: [{name: k, string_match: {exact: a%20b}}]}
  direct_response: {status: 200}
- {match: {path: /present, query_parameters: [{name: k, present_match: true}]}, direct_response: {status: 200}}
- {match: {path: /absent, query_parameters: [{name: k, present_match: false}]}, direct_response: {status: 200}}
- {match: {path: /bare, query_parameters: [{name: k}]}, direct_response: {status: 200}}
- match: {path: /prefix, query_parameters: [{name: k, string_match: {prefix: x}}]}
  direct_response: {status: 200}
",
    );
    for (path, expected) in [
        ("/exact?k=a%20b", true),
        ("/exact?k=a+b", false),
        ("/exact", false),
        ("/present?k", true),
        ("/present?k=", true),
        ("/present?a&&k&", true),
        ("/present?x=k", false),
        ("/present?K=1", false),
        ("/present?%6b=1", false),
        ("/present", false),
        ("/absent", true),
        ("/absent?k", false),
        ("/bare?k", true),
        ("/bare", false),
        ("/prefix?k=x&k=y", true),
        ("/prefix?k=y&k=x", false),
        ("/prefix?a=b=c&k=xy=z", true),
    ] {
        assert_eq!(find(&table, &get(path)).is_some(), expected, "{path}");
    }
}

#[test]
fn fractions() {
    let table = routes(
        "
- name: some
  match: {prefix: /, runtime_fraction: {default_value: {numerator: 25}}}
  direct_response: {status: 200}
- {name: rest, match: {prefix: /}, direct_response: {status: 200}}
",
    );
    let registered = Rc::default();
    for (random, expected) in [(0, "some"), (24, "some"), (25, "rest"), (99, "rest"), (124, "some")] {
        let route = find_with(&table, &registered, &get("/"), random).unwrap();
        assert_eq!(route.name, expected, "{random}");
    }
}

#[test]
fn connect_has_a_matcher_of_its_own() {
    let table = routes(
        "
- {name: prefix, match: {prefix: /}, direct_response: {status: 200}}
- {name: empty, match: {prefix: ''}, direct_response: {status: 200}}
- {name: connect, match: {connect_matcher: {}}, direct_response: {status: 200}}
",
    );
    let connect = Request::builder().method("CONNECT").uri("example.com:443").body(()).unwrap();
    assert_eq!(name(&table, &connect), "connect");
    assert_eq!(name(&table, &get("/")), "prefix");
}

#[test]
fn virtual_hosts_by_authority() {
    let yaml = "
virtual_hosts:
- name: a
  domains: [example.com]
  routes: [{name: a, match: {prefix: /a}, direct_response: {status: 200}}]
- name: all
  domains: ['*']
  routes: [{name: all, match: {prefix: /}, direct_response: {status: 200}}]
";
    let table = table(yaml);
    assert_eq!(find(&table, &get("/a")).unwrap().virtual_host_name(), "a");
    // A virtual host that is chosen is chosen for good.
    assert_eq!(name(&table, &get("/b")), "-");
    let http2 = |authority: &str| Request::builder().uri(format!("https://{authority}/a")).body(()).unwrap();
    assert_eq!(name(&table, &http2("example.com")), "a");
    assert_eq!(name(&table, &http2("example.com:443")), "all");
    assert_eq!(name(&table, &http2("other")), "all");
    assert_eq!(name(&table, &Request::builder().uri("/").body(()).unwrap()), "all");
    let ignoring = super::table(&format!("ignore_port_in_host_matching: true\n{yaml}"));
    assert_eq!(name(&ignoring, &http2("example.com:443")), "a");
}

#[test]
fn path_parameters_can_be_ignored() {
    let yaml = "
virtual_hosts:
- name: v
  domains: ['*']
  routes: [{name: r, match: {path: /a/b}, direct_response: {status: 200}}]
";
    assert_eq!(name(&table(yaml), &get("/a/b;x=1")), "-");
    let ignoring = table(&format!("ignore_path_parameters_in_path_matching: true\n{yaml}"));
    assert_eq!(name(&ignoring, &get("/a/b;x=1")), "r");
    assert_eq!(name(&ignoring, &get("/a/b?q;")), "r");
}

#[test]
fn require_tls_sends_away() {
    for (require_tls, headers, redirected) in [
        ("NONE", &[][..], false),
        ("ALL", &[], true),
        ("ALL", &[("x-envoy-internal", "true")], true),
        ("EXTERNAL_ONLY", &[], true),
        ("EXTERNAL_ONLY", &[("x-envoy-internal", "true")], false),
    ] {
        let table = table(&format!(
            "
virtual_hosts:
- name: v
  domains: ['*']
  require_tls: {require_tls}
  routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]
"
        ));
        let mut request = request("GET", "/a?b", headers);
        let route = find(&table, &request).unwrap();
        match &route.action {
            Action::Redirect(redirect) => {
                assert!(redirected, "{require_tls} {headers:?}");
                assert_eq!(
                    (redirect.status.as_u16(), redirect.location(&request, &StreamInfo::sample()).as_str()),
                    (301, "https://example.com/a?b")
                );
            }
            _ => assert!(!redirected, "{require_tls} {headers:?}"),
        }
        request.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
        assert!(matches!(find(&table, &request).unwrap().action, Action::DirectResponse(_)));
    }
}

#[test]
fn cookies() {
    let table = routes(
        "
- {name: blue, match: {prefix: /, cookies: [{name: c, string_match: {exact: blue}}]}, direct_response: {status: 200}}
- {name: none, match: {prefix: /, cookies: [{name: c, string_match: {safe_regex: {regex: '.*'}}, invert_match: true}]}, direct_response: {status: 200}}
",
    );
    for (cookies, expected) in [
        (&["c=blue"][..], "blue"),
        (&["a=b; c=blue;d"], "blue"),
        (&["a=b", "c=blue"], "blue"),
        (&["c=\"blue\""], "blue"),
        (&["c=red; c=blue"], "-"),
        (&["xc=blue"], "none"),
        (&["c"], "none"),
        (&[], "none"),
    ] {
        let headers: Vec<_> = cookies.iter().map(|line| ("cookie", *line)).collect();
        assert_eq!(name(&table, &request("GET", "/", &headers)), expected, "{cookies:?}");
    }
}

#[test]
fn templates() {
    let table = routes(
        "
- name: user
  match:
    path_match_policy:
      name: t
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
        path_template: /users/{id}/posts/{rest=**}
  direct_response: {status: 200}
",
    );
    assert_eq!(name(&table, &get("/users/7/posts/a/b?q")), "user");
    assert_eq!(name(&table, &get("/users/7/8/posts/a")), "-");
}

#[test]
fn a_header_may_name_the_virtual_host() {
    let table = table(
        "
vhost_header: x-host
virtual_hosts:
- {name: a, domains: [a.test], routes: [{name: a, match: {prefix: /}, direct_response: {status: 200}}]}
- {name: any, domains: ['*'], routes: [{name: any, match: {prefix: /}, direct_response: {status: 200}}]}
",
    );
    assert_eq!(name(&table, &request("GET", "/", &[("x-host", "A.test")])), "a");
    assert_eq!(name(&table, &request("GET", "/", &[("x-host", "b.test")])), "any");
    assert_eq!(name(&table, &get("/")), "-");
}

#[test]
fn a_tree_chooses_among_routes() {
    let table = table(
        "
virtual_hosts:
- name: v
  domains: ['*']
  matcher:
    matcher_tree:
      input: {name: i, typed_config: {'@type': type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ':path'}}
      prefix_match_map:
        map:
          /a: {action: {name: r, typed_config: {'@type': type.googleapis.com/envoy.config.route.v3.Route, name: a, match: {prefix: /a, headers: [{name: x}]}, direct_response: {status: 200}}}}
          /b:
            action:
              name: r
              typed_config:
                '@type': type.googleapis.com/envoy.config.route.v3.RouteList
                routes:
                - {name: b1, match: {prefix: /b/1}, direct_response: {status: 200}}
                - {name: b, match: {prefix: /b}, direct_response: {status: 200}}
    on_no_match: {action: {name: r, typed_config: {'@type': type.googleapis.com/envoy.config.route.v3.Route, name: rest, match: {prefix: /}, route: {cluster: nowhere}}}}
",
    );
    assert_eq!(name(&table, &request("GET", "/a", &[("x", "1")])), "a");
    assert_eq!(name(&table, &get("/a")), "-", "the route is asked, too");
    assert_eq!(name(&table, &get("/b/12")), "b1");
    assert_eq!(name(&table, &get("/b/2")), "b");
    assert_eq!(name(&table, &get("/c")), "rest");
}

#[test]
fn a_tree_chooses_the_cluster() {
    let table = routes(
        "
- match: {prefix: /}
  route:
    inline_cluster_specifier_plugin:
      extension:
        name: m
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier
          cluster_matcher:
            matcher_tree:
              input: {name: i, typed_config: {'@type': type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x}}
              exact_match_map:
                map:
                  one: {action: {name: c, typed_config: {'@type': type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: other}}}
",
    );
    let cluster = |request: Request<()>| {
        let route = find(&table, &request).unwrap();
        route.cluster(&request).map(str::to_owned)
    };
    assert_eq!(cluster(request("GET", "/", &[("x", "one")])).as_deref(), Some("other"));
    assert_eq!(cluster(get("/")), None);
}

#[test]
fn a_header_decides_among_weighted_clusters() {
    let table = routes(
        "
- match: {prefix: /}
  route: {weighted_clusters: {header_name: x-number, clusters: [{name: up, weight: 2}, {name: other, weight: 3}]}}
",
    );
    for (number, expected) in [("1", "up"), ("2", "other"), ("4", "other"), ("5", "up"), ("no", "up"), ("-1", "up")] {
        let request = request("GET", "/", &[("x-number", number)]);
        let route = find(&table, &request).unwrap();
        assert_eq!(route.cluster(&request), Some(expected), "{number}");
    }
}

#[test]
fn virtual_clusters() {
    let table = table(
        "
virtual_hosts:
- name: v
  domains: ['*']
  virtual_clusters:
  - {name: posts, headers: [{name: ':method', string_match: {exact: POST}}]}
  - {name: a, headers: [{name: ':path', string_match: {prefix: /a}}]}
  routes: [{match: {prefix: /}, stat_prefix: all, route: {cluster: up}}]
",
    );
    for (method, path, expected) in [("POST", "/a", "posts"), ("GET", "/a", "a"), ("GET", "/", "other")] {
        let request = request(method, path, &[]);
        let route = find(&table, &request).unwrap();
        let counted_by = route.counted_by(&request);
        assert_eq!(counted_by.virtual_cluster.map(|counted| &**counted.name()), Some(expected));
        assert_eq!(counted_by.route.map(|counted| &**counted.name()), Some("all"));
    }
}

#[test]
fn a_hash_decides_among_weighted_clusters() {
    let table = routes(
        "
- match: {prefix: /}
  route:
    hash_policy:
    - {header: {header_name: x-user}, terminal: true}
    - {cookie: {name: session}}
    - {query_parameter: {name: q}}
    weighted_clusters: {use_hash_policy: true, clusters: [{name: up, weight: 50}, {name: other, weight: 50}]}
",
    );
    let drawn = |path: &str, headers: &[(&str, &str)]| {
        let request = request("GET", path, headers);
        let route = find(&table, &request).unwrap();
        route.cluster(&request).map(str::to_owned)
    };
    for value in ["a", "b", "c", "d"] {
        let expected = if xxh64(value.as_bytes(), 0) % 100 < 50 { "up" } else { "other" };
        assert_eq!(drawn("/?q=z", &[("x-user", value), ("cookie", "session=z")]).as_deref(), Some(expected));
        let both = xxh64(value.as_bytes(), 0).rotate_left(1) ^ xxh64(b"z", 0);
        let expected = if both % 100 < 50 { "up" } else { "other" };
        assert_eq!(drawn("/?q=z", &[("cookie", &format!("session={value}"))]).as_deref(), Some(expected));
    }
    assert_eq!(drawn("/", &[]).as_deref(), Some("up"), "the random number, zero here");
}
