//! What the router makes of a request beside its one answer: further attempts, copies, redirects that are followed, and none at all.

use super::support::{
    message::{get, post, value},
    portreeve::Config,
    upstream::{self, Reply},
};

#[tokio::test]
async fn a_retry_policy_sends_a_request_again_with_its_body() {
    let upstream = upstream::http1().route("/", Reply::from("busy").status(503)).start().await;
    let virtual_host = "{ name: all, domains: ['*'], include_request_attempt_count: true, \
        include_attempt_count_in_response: true, routes: [{ match: { prefix: / }, route: { cluster: upstream, \
        retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s } } } }] }";
    let portreeve = Config::to(&upstream).virtual_hosts(virtual_host).start().await;
    let answer = portreeve.send(post("/", "hello")).await;
    assert_eq!((answer.status, answer.text()), (503, "busy"));
    assert_eq!(value(&answer.headers, "x-envoy-attempt-count"), "3");
    let requests = upstream.requests();
    let seen: Vec<_> =
        requests.iter().map(|request| (value(&request.headers, "x-envoy-attempt-count"), &request.body[..])).collect();
    let wanted = ["1", "2", "3"].map(|attempt| (attempt.to_owned(), &b"hello"[..]));
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let routes = "{ match: { prefix: / }, route: { cluster: upstream, \
        retry_policy: { retry_on: 5xx, per_try_timeout: 0.05s, retry_back_off: { base_interval: 0.001s } } } }";
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let answer = portreeve.get("/").await;
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_copy_goes_to_another_cluster() {
    let (upstream, other) =
        (upstream::http1().route("/", "answer").start().await, upstream::http1().route("/", "lost").start().await);
    let routes = "{ match: { prefix: / }, \
        route: { cluster: upstream, request_mirror_policies: [{ cluster: other }] } }";
    let portreeve = Config::to(&upstream).cluster("other", &other).routes(routes).start().await;
    assert_eq!(portreeve.send(post("/path", "hello").host("a.test")).await.text(), "answer");
    while other.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let copy = other.last();
    assert_eq!((copy.uri.path(), &copy.body[..]), ("/path", &b"hello"[..]));
    assert_eq!(value(&copy.headers, "host"), "a.test-shadow");
    assert_eq!(value(&upstream.last().headers, "host"), "a.test");
}

#[tokio::test]
async fn a_redirect_is_followed_within() {
    let away = Reply::from("").status(302).header("location", "http://other.test/goal?q");
    let upstream = upstream::http1().route("/away", away).route("/goal", "goal").start().await;
    let routes = "{ match: { path: /away }, route: { cluster: upstream, internal_redirect_policy: {} } }, \
        { match: { prefix: / }, route: { cluster: upstream } }";
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let answer = portreeve.send(get("/away").host("first.test")).await;
    assert_eq!((answer.status, answer.text()), (200, "goal"));
    let followed = upstream.last();
    assert_eq!(followed.uri.to_string(), "/goal?q");
    assert_eq!(value(&followed.headers, "host"), "other.test");
    assert_eq!(value(&followed.headers, "x-envoy-original-url"), "http://first.test/away");
}

#[tokio::test]
async fn a_circuit_breaker_lets_no_request_through() {
    let upstream = upstream::http1().route("/", "never").start().await;
    let breakers = ", circuit_breakers: { thresholds: [{ max_requests: 0 }] }";
    let routes = "{ match: { prefix: / }, route: { cluster: full } }";
    let portreeve = Config::new().cluster_with("full", upstream.address, breakers).routes(routes).start().await;
    let answer = portreeve.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(value(&answer.headers, "x-envoy-overloaded"), "true");
    assert!(upstream.requests().is_empty());
}
