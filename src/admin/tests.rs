//! What each endpoint answers, and whom the guard turns away.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::SystemTime,
};

use http::Request as HttpRequest;
use prost_reflect::DynamicMessage;

use super::*;
use crate::{
    access_log,
    config::Report,
    filter::Services,
    proto::{self, bootstrap::Bootstrap},
    snapshot::{Change, ConfigManager},
};

mod resources;

/// A process that notes what it was told.
struct Fake {
    stats: Arc<Registry>,
    state: Cell<State>,
    levels: RefCell<Vec<Logger>>,
    told: RefCell<Vec<String>>,
    snapshot: Arc<Snapshot>,
}

impl Fake {
    fn new() -> Rc<Self> {
        Self::with(Snapshot {
            version: 1,
            bootstrap: Arc::default(),
            listeners: BTreeMap::new(),
            clusters: Arc::default(),
            registered: Arc::default(),
            runtime: Arc::default(),
            proto: Arc::default(),
            loaded: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        })
    }

    fn with(snapshot: Snapshot) -> Rc<Self> {
        let level = LogLevel::Info;
        let levels = ["config", "router"].map(|name| Logger { name: name.to_owned(), level }).to_vec();
        Rc::new(Self {
            stats: Registry::new(1),
            state: Cell::new(State::Live),
            levels: RefCell::new(levels),
            told: RefCell::default(),
            snapshot: Arc::new(snapshot),
        })
    }

    /// A process that shows this document, which need not be one that could be loaded.
    fn showing(document: &str) -> Rc<Self> {
        let snapshot = (*Self::new().snapshot).clone();
        Self::with(Snapshot { proto: Arc::new(bootstrap(document)), ..snapshot })
    }

    /// A process that has loaded this document.
    fn running(document: &str) -> Rc<Self> {
        let mut manager = ConfigManager::new(Registry::new(1), access_log::Mode::Check, Services::default());
        let report = Report::new();
        let applied = manager.apply(Change::Bootstrap(Box::new(bootstrap(document)), &report));
        let snapshot = applied.unwrap_or_else(|_| panic!("{:?}", report.into_problems()));
        Self::with((*snapshot).clone())
    }

    fn tell(&self, what: impl Into<String>) {
        self.told.borrow_mut().push(what.into());
    }
}

impl Process for Fake {
    fn stats(&self) -> &Arc<Registry> {
        &self.stats
    }

    fn state(&self) -> State {
        self.state.get()
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(90_500)
    }

    fn command_line(&self) -> CommandLineOptions {
        CommandLineOptions { concurrency: 2, config_yaml: "secret".to_owned(), ..CommandLineOptions::default() }
    }

    fn succession(&self) -> String {
        "generation 1, draining: process 7 (generation 0)".to_owned()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    fn listening(&self) -> Vec<(String, Address)> {
        let port = |port| Address::Ip((std::net::Ipv4Addr::LOCALHOST, port).into());
        vec![("ingress".to_owned(), port(8443)), ("local".to_owned(), Address::Pipe("/run/x.sock".into()))]
    }

    fn loggers(&self) -> Vec<Logger> {
        self.levels.borrow().clone()
    }

    fn set_log_level(&self, logger: Option<&str>, level: LogLevel) -> Result<(), UnknownLogger> {
        let mut levels = self.levels.borrow_mut();
        let mut found = levels.iter_mut().filter(|known| logger.is_none_or(|name| name == known.name)).peekable();
        if found.peek().is_none() {
            return Err(UnknownLogger);
        }
        found.for_each(|logger| logger.level = level);
        Ok(())
    }

    fn modify_runtime(&self, values: Vec<(String, String)>) {
        self.tell(format!("runtime {values:?}"));
    }

    fn reopen_logs(&self) {
        self.tell("reopen logs");
    }

    fn fail_health_checks(&self, fail: bool) {
        self.tell(format!("fail {fail}"));
    }

    fn drain_listeners(&self) {
        self.tell("drain");
    }

    fn quit(&self) {
        self.tell("quit");
    }
}

/// Status and body of the answer to `method target`, with further headers and a form.
async fn ask(
    process: &Rc<Fake>,
    request: http::request::Builder,
    form: &'static str,
) -> (u16, String, http::HeaderMap) {
    let admin = Admin::new(Rc::clone(process) as Rc<dyn Process>, "machine".to_owned());
    let request = request.header("host", "127.0.0.1:8001").body(Body::full(form)).expect("a valid request");
    let (parts, body) = admin.respond(request).await.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    (parts.status.as_u16(), String::from_utf8(body.to_vec()).expect("text"), parts.headers)
}

async fn get(process: &Rc<Fake>, target: &str) -> (u16, String) {
    let (status, body, _) = ask(process, HttpRequest::get(target), "").await;
    (status, body)
}

async fn post(process: &Rc<Fake>, target: &str) -> (u16, String) {
    let (status, body, _) = ask(process, HttpRequest::post(target), "").await;
    (status, body)
}

fn bootstrap(json: &str) -> Bootstrap {
    let descriptor = proto::pool().get_message_by_name("envoy.config.bootstrap.v3.Bootstrap").expect("in the pool");
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(descriptor, &mut deserializer).expect("a valid bootstrap");
    message.transcode_to().expect("the same message")
}

#[test]
fn endpoints_are_in_order_and_each_has_one_row() {
    assert!(ENDPOINTS.windows(2).all(|pair| pair[0].path < pair[1].path));
}

#[tokio::test]
async fn every_answer_has_envoys_headers() {
    for (target, content_type) in [
        ("/", "text/html; charset=UTF-8"),
        ("/ready", "text/plain; charset=UTF-8"),
        ("/server_info", "application/json"),
        ("/stats?format=json", "application/json"),
        ("/stats/prometheus", "text/plain; charset=UTF-8"),
        ("/nothing", "text/plain; charset=UTF-8"),
    ] {
        let (_, _, headers) = ask(&Fake::new(), HttpRequest::get(target), "").await;
        assert_eq!(headers["content-type"], content_type, "{target}");
        assert_eq!(headers["cache-control"], "no-cache, max-age=0");
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn ready_is_503_unless_live() {
    let process = Fake::new();
    assert_eq!(get(&process, "/ready").await, (200, "LIVE\n".to_owned()));
    for (state, text) in [
        (State::Draining, "DRAINING\n"),
        (State::PreInitializing, "PRE_INITIALIZING\n"),
        (State::Initializing, "INITIALIZING\n"),
    ] {
        process.state.set(state);
        assert_eq!(get(&process, "/ready").await, (503, text.to_owned()));
    }
}

#[tokio::test]
async fn only_post_changes_anything() {
    let process = Fake::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.is_change(&Query::default())) {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let request = HttpRequest::builder().method(method.clone()).uri(endpoint.path);
            let (status, body, headers) = ask(&process, request, "").await;
            assert_eq!((status, &headers["allow"]), (405, &HeaderValue::from_static("POST")), "{}", endpoint.path);
            assert_eq!(body, format!("Method {method} not allowed, POST required."));
        }
    }
    assert!(process.told.borrow().is_empty());
    let (status, body, _) = ask(&process, HttpRequest::put("/ready"), "").await;
    assert_eq!((status, &*body), (200, "LIVE\n"), "what changes nothing is shown by any method");
}

#[tokio::test]
async fn the_process_is_told_what_was_posted() {
    let process = Fake::new();
    for target in ["/healthcheck/fail", "/healthcheck/ok", "/drain_listeners?graceful", "/reopen_logs", "/quitquitquit"]
    {
        assert_eq!(post(&process, target).await, (200, "OK\n".to_owned()));
    }
    let expected = ["fail true", "fail false", "drain", "reopen logs", "quit"];
    assert_eq!(*process.told.borrow(), expected);
    assert_eq!(post(&process, "/drain_listeners?skip_exit").await.0, 400);
    assert_eq!(process.told.borrow().len(), expected.len());
}

#[tokio::test]
async fn a_foreign_page_is_refused_before_anything_else() {
    let process = Fake::new();
    let request = HttpRequest::post("/quitquitquit").header("origin", "http://attacker.example");
    let (status, body, _) = ask(&process, request, "").await;
    assert_eq!(status, 403);
    assert!(body.contains("\"http://attacker.example\" is not this server"), "{body}");
    assert!(process.told.borrow().is_empty());
}

/// The answers were taken from Envoy 1.40.
#[tokio::test]
async fn paths_that_are_not_allowed_are_not_there() {
    let process = Fake::running(r#"{"admin": {"allow_paths": [{"exact": "/ready"}, {"prefix": "/stats"}]}}"#);
    assert_eq!(get(&process, "/ready").await.0, 200);
    assert_eq!(get(&process, "/stats?filter=x").await.0, 200);
    for target in ["/ready?x", "/clusters", "/nowhere", "/"] {
        assert_eq!(get(&process, target).await, (403, format!("request to path {target} not allowed")));
    }
    assert_eq!(post(&process, "/quitquitquit").await.0, 403);
    assert!(process.told.borrow().is_empty());
}

#[tokio::test]
async fn an_unknown_path_is_404_and_lists_the_known_ones() {
    let (status, body) = get(&Fake::new(), "/nope").await;
    assert_eq!(status, 404);
    assert!(body.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"), "{body}");
    assert!(body.contains("\n  /quitquitquit (POST): exit the server\n"), "{body}");
    assert!(
        body.contains("\n      format: Format to use; One of (html, active-html, json, prometheus, text)\n"),
        "{body}"
    );
}

#[tokio::test]
async fn the_home_page_links_what_shows_and_posts_what_changes() {
    let (_, html) = get(&Fake::new(), "/").await;
    assert!(html.contains("<a href='/ready'>/ready</a>"));
    assert!(html.contains("<form id='/quitquitquit' action='/quitquitquit' method='post'>"));
    assert!(html.contains("<input name='filter' form='/stats'>"));
    assert!(html.contains("<option>debug</option>"));
}

#[tokio::test]
async fn levels_are_shown_and_changed() {
    let process = Fake::new();
    let levels = |config: &str, router: &str| format!("active loggers:\n  config: {config}\n  router: {router}\n\n");
    assert_eq!(get(&process, "/logging").await, (200, levels("info", "info")));
    assert_eq!(post(&process, "/logging?level=debug").await, (200, levels("debug", "debug")));
    assert_eq!(post(&process, "/logging?router=trace").await, (200, levels("debug", "trace")));
    assert_eq!(post(&process, "/logging?paths=router:off,config:warn").await, (200, levels("warning", "off")));
    assert_eq!(get(&process, "/logging?level=info").await.0, 405);

    let form = HttpRequest::post("/logging").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(ask(&process, form, "level=error&paths=").await.1, levels("error", "error"));

    for (query, why) in [
        ("level=loud", "unknown logger level"),
        ("nobody=info", "unknown logger name"),
        ("paths=router:info,nobody:info", "unknown logger name"),
        ("paths=router", "empty logger name or empty logger level"),
        ("level=info&router=info", "invalid number of parameters"),
    ] {
        let (status, body) = post(&process, &format!("/logging?{query}")).await;
        assert_eq!(status, 400);
        assert!(body.starts_with(&format!("error: {why}\n\nusage: /logging?<name>=<level>")), "{body}");
        assert!(body.ends_with(&levels("error", "error")), "nothing changed: {body}");
    }
}

#[tokio::test]
async fn stats_are_printed_as_envoy_prints_them() {
    let process = Fake::new();
    let scope = process.stats.scope("http.in");
    let (requests, active, time) = (
        scope.counter("downstream_rq_total"),
        scope.gauge("downstream_rq_active"),
        scope.histogram("downstream_rq_time"),
    );
    let _unused = (scope.counter("no_route"), scope.histogram("downstream_cx_length_ms"));
    requests.add(2);
    active.inc();
    time.record(1);

    let expected = "\
http.in.downstream_rq_active: 1
http.in.downstream_rq_total: 2
http.in.no_route: 0
http.in.downstream_cx_length_ms: No recorded values
http.in.downstream_rq_time: P0(nan,1.05) P25(nan,1.05) P50(nan,1.05) P75(nan,1.05) P90(nan,1.05) P95(nan,1.05) \
P99(nan,1.05) P99.5(nan,1.05) P99.9(nan,1.05) P100(nan,1.05)
";
    assert_eq!(get(&process, "/stats?filter=%5Ehttp.in.").await, (200, expected.to_owned()));

    process.stats.flush();
    let value = r#"{"cumulative":1.05,"interval":1.05}"#;
    let expected = format!(
        r#"{{"stats":[{{"name":"http.in.downstream_rq_active","value":1}},{{"name":"http.in.downstream_rq_total","value":2}},{{"histograms":{{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{{"name":"http.in.downstream_rq_time","values":[{}]}}]}}}}]}}"#,
        [value; 10].join(",")
    );
    assert_eq!(get(&process, "/stats?format=json&usedonly&filter=in").await, (200, expected));

    let (status, text) = get(&process, "/stats?format=prometheus&filter=http.in.*_rq_total$").await;
    let expected = "# TYPE envoy_http_downstream_rq_total counter\n\
                    envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"in\"} 2\n";
    assert_eq!((status, &*text), (200, expected));
    assert_eq!(get(&process, "/stats/prometheus?filter=http.in.*_rq_total$").await.1, expected);
    assert_eq!(get(&process, "/stats?type=Gauges&filter=http.in").await.1, "http.in.downstream_rq_active: 1\n");
    assert_eq!(get(&process, "/stats?filter=rq|cx&invert_filter&type=Counters").await.1, "http.in.no_route: 0\n");
    assert_eq!(get(&process, "/stats?format=json&filter=nothing").await.1, r#"{"stats":[]}"#);

    assert_eq!(post(&process, "/reset_counters").await.0, 200);
    assert_eq!(requests.value(), 0);
}

#[tokio::test]
async fn a_bad_question_about_stats_is_400() {
    let process = Fake::new();
    for (query, why) in [
        ("filter=(", "Invalid re2 regex: unclosed group"),
        ("format=nope", "usage: /stats?format=(html|active-html|json|prometheus|text)"),
        ("type=Foo", "invalid &type= param"),
        (
            "histogram_buckets=some",
            "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)",
        ),
        ("hidden=yes", "usage: /stats?hidden=(include|only|exclude)"),
    ] {
        let (status, body) = get(&process, &format!("/stats?{query}")).await;
        assert!(status == 400 && body.starts_with(why), "{status} {body}");
    }
}

#[tokio::test]
async fn histograms_have_buckets_and_bins() {
    let process = Fake::running(
        r#"{"stats_config": {"histogram_bucket_settings": [{"match": {"exact": "h"}, "buckets": [1, 5, 1000000]}]}}"#,
    );
    let histogram = process.stats.scope("").histogram("h");
    for value in [0, 3, 7, 70] {
        histogram.record(value);
    }
    process.stats.flush();
    histogram.record(2);
    for (query, expected) in
        [("cumulative", "h: B1(1,1) B5(2,3) B1e+06(4,5)\n"), ("disjoint", "h: B1(1,1) B5(1,2) B1e+06(2,2)\n")]
    {
        assert_eq!(get(&process, &format!("/stats?filter=^h$&histogram_buckets={query}")).await.1, expected);
    }
    let (_, detailed) = get(&process, "/stats?filter=^h$&histogram_buckets=detailed").await;
    let expected = "h:\n  totals=0,0:1, 2,0.1:1, 3,0.1:1, 7,0.1:1, 70,1:1\n  intervals=0,0:1, 3,0.1:1, 7,0.1:1, 70,1:1\n  summary=P0(";
    assert!(detailed.starts_with(expected), "{detailed}");
    for detail in ["cumulative", "disjoint", "detailed", "summary"] {
        let (_, json) = get(&process, &format!("/stats?format=json&filter=^h$&histogram_buckets={detail}")).await;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(json["stats"][0]["histograms"].to_string().contains("\"name\":\"h\""), "{json}");
    }
    let (_, prometheus) = get(&process, "/stats/prometheus?filter=^h$").await;
    assert!(prometheus.contains("envoy_h_bucket{le=\"5\"} 3\nenvoy_h_bucket{le=\"1000000\"} 5\n"), "{prometheus}");
    let (_, summary) = get(&process, "/stats/prometheus?filter=^h$&histogram_buckets=summary").await;
    assert!(summary.starts_with("# TYPE envoy_h summary\nenvoy_h{quantile=\"0\"} "), "{summary}");
    assert!(get(&process, "/stats?format=html&filter=^h$").await.1.contains("<pre>\nh: P0("));
}

#[tokio::test]
async fn stats_that_are_not_shown_are_counted_nevertheless() {
    let process = Fake::running(
        r#"{"stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"prefix": "http."}]}}}}"#,
    );
    let counters = [process.stats.scope("http").counter("a"), process.stats.scope("cluster").counter("a")];
    counters.iter().for_each(super::super::stats::Counter::inc);
    assert_eq!(get(&process, "/stats?filter=.a$").await.1, "http.a: 1\n");
    assert_eq!(counters[1].value(), 1);
}

#[tokio::test]
async fn runtime_values_are_shown_by_layer_and_changed_in_one() {
    let process = Fake::running(
        r#"{"layered_runtime": {"layers": [{"name": "base", "static_layer": {"own": {"b": 5}}}, {"name": "admin", "admin_layer": {}}]}}"#,
    );
    let expected = "{\n \"layers\": [\n  \"base\",\n  \"admin\"\n ],\n \"entries\": {\n  \"own.b\": {\n   \"final_value\": \"5\",\n   \
                    \"layer_values\": [\n    \"5\",\n    \"\"\n   ]\n  }\n }\n}\n";
    assert_eq!(get(&process, "/runtime").await, (200, expected.to_owned()));
    assert_eq!(post(&process, "/runtime_modify?own.b=7").await, (200, "OK\n".to_owned()));
    assert_eq!(*process.told.borrow(), ["runtime [(\"own.b\", \"7\")]"]);
    assert_eq!(post(&process, "/runtime_modify").await.0, 400);
    let fixed = Fake::running("{}");
    assert_eq!(get(&fixed, "/runtime").await.1, "{\n \"layers\": [],\n \"entries\": {}\n}\n");
    assert_eq!(post(&fixed, "/runtime_modify?a=b").await, (503, "No admin layer specified".to_owned()));
}

#[tokio::test]
async fn what_envoy_has_of_its_own_is_answered_as_if_left_out() {
    let process = Fake::new();
    assert_eq!(get(&process, "/init_dump").await, (200, "{}\n".to_owned()));
    assert_eq!(get(&process, "/memory/tcmalloc").await.0, 501);
    assert_eq!(get(&process, "/heap_dump").await.0, 501);
    assert_eq!(post(&process, "/cpuprofiler").await, (400, "?enable=<y|n>\n".to_owned()));
    assert_eq!(post(&process, "/heapprofiler?enable=y").await.0, 501);
    let admin = Rc::new(Admin::new(Rc::clone(&process) as Rc<dyn Process>, String::new()));
    assert!(!admin.tracks_lookups.get());
    assert!(get(&process, "/stats/recentlookups").await.1.starts_with("Lookup tracking is not enabled."));
    assert_eq!(post(&process, "/stats/recentlookups/enable").await, (200, "OK\n".to_owned()));
}

#[tokio::test]
async fn server_info_is_in_envoys_form_and_keeps_the_command_lines_configuration() {
    let process = Fake::running(r#"{"node": {"id": "n1", "cluster": "c1"}}"#);
    let (status, body) = get(&process, "/server_info").await;
    assert_eq!(status, 200);
    let info: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["uptime_current_epoch"], "90s");
    assert_eq!(info["hot_restart_version"], "generation 1, draining: process 7 (generation 0)");
    assert_eq!(info["node"]["id"], "n1");
    assert_eq!(info["node"]["user_agent_name"], "portreeve");
    assert_eq!(info["node"]["extensions"][0]["category"], "envoy.filters.network");
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert_eq!(info["command_line_options"]["config_yaml"], "[redacted]");
    assert_eq!(info["hot_restart_initializing"], false, "defaults are printed");
    assert!(body.starts_with("{\n \"version\": \"portreeve/"), "{body}");
}

#[tokio::test]
async fn memory_is_told_in_bytes() {
    let (_, body) = get(&Fake::new(), "/memory").await;
    let memory: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let bytes: u64 =
        memory["total_physical_bytes"].as_str().expect("a 64-bit number is a string").parse().expect("number");
    assert!(bytes > 1024 * 1024, "{body}");
}
