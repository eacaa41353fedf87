//! Routes: which one a request takes, and what that makes of it.

use super::support::{
    message::{get, value},
    portreeve::Config,
    upstream,
};

/// Asserts that each path is answered with the text beside it.
async fn answers(config: Config, expected: &[(&str, &str)]) {
    let portreeve = config.start().await;
    for (path, text) in expected {
        let answer = portreeve.get(path).await;
        assert_eq!(format!("{} {}", answer.status, answer.text()), *text, "for {path}");
    }
}

/// A route that answers by itself.
fn says(matches: &str, text: &str) -> String {
    format!("{{ match: {{ {matches} }}, direct_response: {{ status: 200, body: {{ inline_string: {text} }} }} }}")
}

#[tokio::test]
async fn the_first_match_wins() {
    let routes = [says("path: /a", "path"), says("prefix: /a", "prefix"), says("prefix: /", "rest")].join(",");
    let expected = [("/a", "200 path"), ("/a?b=c", "200 path"), ("/ab", "200 prefix"), ("/b", "200 rest")];
    answers(Config::new().routes(&routes), &expected).await;
}

#[tokio::test]
async fn a_separated_prefix_ends_at_a_slash() {
    let routes = says("path_separated_prefix: /api", "api");
    let expected = [("/api", "200 api"), ("/api/v1", "200 api"), ("/api?x", "200 api"), ("/apis", "404 ")];
    answers(Config::new().routes(&routes), &expected).await;
}

#[tokio::test]
async fn a_regular_expression_matches_the_whole_path() {
    let routes = says(r#"safe_regex: { regex: "/v[0-9]+/.*" }"#, "version");
    let expected = [("/v1/x", "200 version"), ("/v12/x?y", "200 version"), ("/x/v1/y", "404 "), ("/v/x", "404 ")];
    answers(Config::new().routes(&routes), &expected).await;
}

#[tokio::test]
async fn headers_choose_among_routes() {
    let routes = [
        says("prefix: /, headers: [ { name: kind, string_match: { exact: red } } ]", "red"),
        says("prefix: /, headers: [ { name: kind, string_match: { prefix: bl, ignore_case: true } } ]", "blue"),
        says("prefix: /, headers: [ { name: kind, present_match: true, invert_match: true } ]", "none"),
    ]
    .join(",");
    let portreeve = Config::new().routes(&routes).start().await;
    let mut client = portreeve.http1().await;
    assert_eq!(client.send(get("/").header("kind", "red")).await.text(), "red");
    assert_eq!(client.send(get("/").header("kind", "BLUE")).await.text(), "blue");
    assert_eq!(client.send(get("/")).await.text(), "none");
    assert_eq!(client.send(get("/").header("kind", "green")).await.status, 404);
}

#[tokio::test]
async fn the_most_specific_domain_wins() {
    let host = |name: &str, domains: &str| {
        format!("{{ name: {name}, domains: [ {domains} ], routes: [ {} ] }}", says("prefix: /", name))
    };
    let hosts = [
        host("any", r#""*""#),
        host("suffix", r#""*.example.com""#),
        host("longer", r#""*.eu.example.com""#),
        host("prefix", r#""www.*""#),
        host("exact", "a.example.com"),
    ]
    .join(",");
    let portreeve = Config::new().virtual_hosts(&hosts).start().await;
    let mut client = portreeve.http1().await;
    for (name, expected) in [
        ("a.example.com", "exact"),
        ("A.Example.Com", "exact"),
        ("b.example.com", "suffix"),
        ("b.eu.example.com", "longer"),
        ("www.example.org", "prefix"),
        ("example.com", "any"),
    ] {
        assert_eq!(client.send(get("/").host(name)).await.text(), expected, "for {name}");
    }
}

#[tokio::test]
async fn a_request_without_a_route_gets_404() {
    let portreeve = Config::new().routes(&says("path: /known", "known")).start().await;
    assert_eq!(portreeve.get("/other").await.status, 404);
    assert_eq!(portreeve.stat("http.main.no_route").await, 1);
}

#[tokio::test]
async fn redirects_say_where_to() {
    let routes = r"
        { match: { path: /https }, redirect: { https_redirect: true } },
        { match: { path: /host }, redirect: { host_redirect: other.example, response_code: FOUND } },
        { match: { path: /path }, redirect: { path_redirect: /there, strip_query: true } },
        { match: { prefix: /old }, redirect: { prefix_rewrite: /new } }";
    let portreeve = Config::new().routes(routes).start().await;
    let mut client = portreeve.http1().await;
    for (path, status, location) in [
        ("/https?q=1", 301, "https://a.example/https?q=1"),
        ("/host", 302, "http://other.example/host"),
        ("/path?q=1", 301, "http://a.example/there"),
        ("/old/page?q=1", 301, "http://a.example/new/page?q=1"),
    ] {
        let answer = client.send(get(path).host("a.example")).await;
        assert_eq!((answer.status, value(&answer.headers, "location").as_str()), (status, location), "for {path}");
    }
}

#[tokio::test]
async fn rewrites_reach_the_upstream() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let routes = r#"
        { match: { prefix: /api/ }, route: { cluster: upstream, prefix_rewrite: /, host_rewrite_literal: inner.example } },
        { match: { safe_regex: { regex: "/user/.*" } }, route: { cluster: upstream,
            regex_rewrite: { pattern: { regex: "^/user/(\\w+)" }, substitution: "/\\1/home" } } },
        { match: { prefix: / }, route: { cluster: upstream } }"#;
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let mut client = portreeve.http1().await;
    for (path, seen, host) in [
        ("/api/v1?q=1", "/v1?q=1", "inner.example"),
        ("/user/ann?q=1", "/ann/home?q=1", "a.example"),
        ("/plain", "/plain", "a.example"),
    ] {
        assert_eq!(client.send(get(path).host("a.example")).await.text(), "hello");
        let request = upstream.last();
        assert_eq!((request.uri.to_string().as_str(), value(&request.headers, "host").as_str()), (seen, host));
    }
}

#[tokio::test]
async fn headers_are_added_and_removed_on_both_ways() {
    let upstream = upstream::http1().route("/", upstream::Reply::from("hello").header("x-internal", "1")).start().await;
    let routes = r#"{ match: { prefix: / }, route: { cluster: upstream },
        request_headers_to_add: [ { header: { key: x-client, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" } },
          { header: { key: x-mode, value: b }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } ],
        request_headers_to_remove: [ x-secret ],
        response_headers_to_add: [ { header: { key: x-served-by, value: portreeve } } ],
        response_headers_to_remove: [ x-internal ] }"#;
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let answer = portreeve.send(get("/").header("x-mode", "a").header("x-secret", "s")).await;
    assert_eq!(value(&answer.headers, "x-served-by"), "portreeve");
    assert!(!answer.headers.contains_key("x-internal"));
    let seen = upstream.last().headers;
    assert_eq!(value(&seen, "x-client"), "127.0.0.1");
    assert_eq!(value(&seen, "x-mode"), "b");
    assert!(!seen.contains_key("x-secret"));
}

#[tokio::test]
async fn weights_share_requests_out() {
    let red = upstream::http1().route("/", "red").start().await;
    let blue = upstream::http1().route("/", "blue").start().await;
    let routes = "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [
        { name: red, weight: 1 }, { name: blue, weight: 1 }, { name: none, weight: 0 } ] } } }";
    let config = Config::new().routes(routes).cluster("red", &red).cluster("blue", &blue).cluster("none", &red);
    let portreeve = config.start().await;
    let mut client = portreeve.http1().await;
    for _ in 0..64 {
        assert_eq!(client.send(get("/")).await.status, 200);
    }
    assert!(!red.requests().is_empty() && !blue.requests().is_empty());
    assert_eq!(red.requests().len() + blue.requests().len(), 64);
}

#[tokio::test]
async fn a_header_may_name_the_cluster() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let routes = "{ match: { prefix: / }, route: { cluster_header: x-cluster } }";
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let mut client = portreeve.http1().await;
    assert_eq!(client.send(get("/").header("x-cluster", "upstream")).await.text(), "hello");
    assert_eq!(client.send(get("/").header("x-cluster", "unknown")).await.status, 503);
}
