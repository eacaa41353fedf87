//! What routes do to the messages that they forward. The answers were taken from Envoy 1.40.

use std::{rc::Rc, sync::Arc};

use http::{Request, Response};

use super::{find, get, request, routes, table};
use crate::{
    route::{Originals, RouteConfiguration, Switch},
    stream_info::StreamInfo,
};

fn finalized(table: &Rc<Arc<RouteConfiguration>>, mut request: Request<()>) -> Request<()> {
    let route = find(table, &request).unwrap();
    route.finalize_request(&mut request, &mut StreamInfo::sample(), &"up".into(), Originals::Told);
    request
}

fn header<'a>(request: &'a Request<()>, name: &str) -> &'a str {
    request.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn paths_are_rewritten() {
    let table = routes(
        r"
- {match: {prefix: /p/}, route: {cluster: up, prefix_rewrite: /}}
- {match: {prefix: /q}, route: {cluster: up, prefix_rewrite: /}}
- {match: {path: /exact}, route: {cluster: up, prefix_rewrite: /new}}
- {match: {safe_regex: {regex: '/re.*'}}, route: {cluster: up, prefix_rewrite: /new}}
- {match: {path_separated_prefix: /sep}, route: {cluster: up, prefix_rewrite: /new}}
- {match: {prefix: /CI, case_sensitive: false}, route: {cluster: up, prefix_rewrite: /new}}
- match: {prefix: /a/}
  route: {cluster: up, regex_rewrite: {pattern: {regex: '^/a/([^/]+)'}, substitution: '/z/\1'}}
- {match: {prefix: /bare/}, route: {cluster: up, prefix_rewrite: new/}}
- {match: {prefix: /}, route: {cluster: up}}
",
    );
    for (path, expected) in [
        ("/bare/x", "/new/x"),
        ("/p/x", "/x"),
        ("/p/", "/"),
        ("/p/?a", "/?a"),
        ("/q", "/"),
        ("/qx", "/x"),
        ("/q/x", "//x"),
        ("/q?a", "/?a"),
        ("/exact?q=1", "/new?q=1"),
        ("/re/a?b", "/new?b"),
        ("/sep", "/new"),
        ("/sep/x", "/new/x"),
        ("/sep?x", "/new?x"),
        ("/ci/X?y", "/new/X?y"),
        ("/a/b/c?x=/a/q", "/z/b/c?x=/a/q"),
    ] {
        let request = finalized(&table, get(path));
        assert_eq!(request.uri().to_string(), expected, "{path}");
        assert_eq!(header(&request, "x-envoy-original-path"), path);
    }
    let untouched = finalized(&table, get("/b//c?d"));
    assert_eq!(untouched.uri().to_string(), "/b//c?d");
    assert_eq!(header(&untouched, "x-envoy-original-path"), "");
}

#[test]
fn rewriting_keeps_scheme_and_authority() {
    let table = routes("- {match: {prefix: /p/}, route: {cluster: up, prefix_rewrite: /}}");
    let request = Request::builder().uri("https://example.com/p/x?y").body(()).unwrap();
    assert_eq!(finalized(&table, request).uri().to_string(), "https://example.com/x?y");
}

#[test]
fn hosts_are_rewritten() {
    let table = routes(
        r"
- {match: {path: /literal}, route: {cluster: up, host_rewrite_literal: new.host}}
- {match: {path: /header}, route: {cluster: up, host_rewrite_header: x-host}}
- match: {prefix: /regex/}
  route: {cluster: up, host_rewrite_path_regex: {pattern: {regex: '^/regex/([^/]+)/.*$'}, substitution: '\1.host'}}
- match: {path: /weighted}
  route: {weighted_clusters: {clusters: [{name: up, weight: 1, host_rewrite_literal: wc.host}]}}
- {match: {path: /none}, route: {cluster: up}}
",
    );
    for (path, headers, host) in [
        ("/literal", &[][..], "new.host"),
        ("/header", &[("x-host", "hh")], "hh"),
        ("/header", &[("x-host", "")], "example.com"),
        ("/header", &[], "example.com"),
        ("/regex/sub/x?y=/z", &[], "sub.host"),
        ("/weighted", &[], "wc.host"),
        ("/none", &[], "example.com"),
    ] {
        let request = finalized(&table, request("GET", path, headers));
        assert_eq!(header(&request, "host"), host, "{path} {headers:?}");
        let original = if ["example.com", "wc.host"].contains(&host) { "" } else { "example.com" };
        assert_eq!(header(&request, "x-envoy-original-host"), original, "{path} {headers:?}");
        assert_eq!(header(&request, "x-forwarded-host"), "");
    }
    let http2 = finalized(&table, Request::builder().uri("https://example.com/literal").body(()).unwrap());
    assert_eq!(crate::http::authority(&http2), Some("new.host"));
    assert_eq!(http2.uri().path(), "/literal");
}

#[test]
fn the_host_of_the_upstream_is_known_later() {
    let table = routes(
        "
- {match: {path: /auto}, route: {cluster: up, auto_host_rewrite: true, append_x_forwarded_host: true}}
- {match: {path: /plain}, route: {cluster: up}}
",
    );
    for (path, host_name, host, forwarded) in [
        ("/auto", "up.host", "up.host", "example.com"),
        ("/auto", "", "example.com", ""),
        ("/plain", "up.host", "example.com", ""),
    ] {
        let mut request = finalized(&table, get(path));
        assert_eq!(header(&request, "host"), "example.com");
        find(&table, &request).unwrap().finalize_host(&mut request, host_name, Originals::Told);
        assert_eq!((header(&request, "host"), header(&request, "x-forwarded-host")), (host, forwarded), "{path}");
    }
}

#[test]
fn forwarded_hosts_are_a_list() {
    let table = routes(
        "- {match: {prefix: /}, route: {cluster: up, host_rewrite_literal: new, append_x_forwarded_host: true}}",
    );
    for (came, goes) in [("a", "a,example.com"), ("a,example.com", "a,example.com")] {
        let request = finalized(&table, request("GET", "/", &[("x-forwarded-host", came)]));
        assert_eq!(header(&request, "x-forwarded-host"), goes);
    }
}

#[test]
fn originals_can_stay_untold() {
    let table =
        routes("- {match: {prefix: /}, route: {cluster: up, prefix_rewrite: /new/, host_rewrite_literal: new.host}}");
    let mut request = get("/x");
    let route = find(&table, &request).unwrap();
    route.finalize_request(&mut request, &mut StreamInfo::sample(), &"up".into(), Originals::Untold);
    assert_eq!(request.uri().path(), "/new/x");
    assert_eq!(header(&request, "x-envoy-original-path"), "");
    assert_eq!(header(&request, "x-envoy-original-host"), "");
}

/// Every level adds to `x-added` and overwrites `x-last`.
fn levels(most_specific_wins: bool) -> Rc<Arc<RouteConfiguration>> {
    let level = |name: &str, indent: &str| {
        let list = |direction: &str| {
            format!(
                "{indent}{direction}_headers_to_add:\n\
                 {indent}- {{header: {{key: x-added, value: {name}}}}}\n\
                 {indent}- {{header: {{key: x-last, value: {name}}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}\n"
            )
        };
        [list("request"), list("response")].concat()
    };
    table(&format!(
        "
most_specific_header_mutations_wins: {most_specific_wins}
{}
virtual_hosts:
- name: v
  domains: ['*']
{}
  routes:
  - match: {{prefix: /}}
{}
    route:
      weighted_clusters:
        clusters:
        - name: up
          weight: 1
{}
",
        level("config", ""),
        level("host", "  "),
        level("route", "    "),
        level("cluster", "          "),
    ))
}

#[test]
fn templates_and_formats_rewrite() {
    let table = routes(
        r"
- match: {path_match_policy: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/t/{kind}/{rest=**}'}}}
  route: {cluster: up, path_rewrite_policy: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig, path_template_rewrite: '/{rest}/of/{kind}'}}}
- {match: {prefix: /f}, route: {cluster: up, path_rewrite: '%REQ(x-path)%', host_rewrite: 'a-%REQ(x-host)%'}}
",
    );
    assert_eq!(finalized(&table, get("/t/a/b/c?q")).uri().to_string(), "/b/c/of/a?q");
    let given = finalized(&table, request("GET", "/f?q", &[("x-path", "/new"), ("x-host", "b")]));
    assert_eq!((given.uri().to_string().as_str(), header(&given, "host")), ("/new?q", "a-b"));
    // What is not there leaves the path alone, and a dash in the host.
    let missing = finalized(&table, get("/f?q"));
    assert_eq!((missing.uri().to_string().as_str(), header(&missing, "host")), ("/f?q", "a--"));
    assert_eq!(header(&missing, "x-envoy-original-path"), "");
}

#[test]
fn copies_are_named_so() {
    let table = routes(
        r"
- match: {prefix: /one}
  route: {cluster: up, request_mirror_policies: [{cluster: other, request_headers_mutations: [{remove: x-secret}, {append: {header: {key: x-copy, value: '1'}}}]}]}
- match: {prefix: /two}
  route: {cluster: up, request_mirror_policies: [{cluster_header: x-to, host_rewrite_literal: copy.test}]}
",
    );
    let copy_of = |request: Request<()>| {
        let route = find(&table, &request).unwrap();
        let policy = &route.mirror_policies()[0];
        let cluster = policy.cluster(&request).map(ToOwned::to_owned);
        let mut copy = request;
        policy.finalize(&mut copy, &StreamInfo::sample());
        (cluster, copy)
    };
    let (cluster, copy) = copy_of(request("GET", "/one", &[("x-secret", "s")]));
    assert_eq!((cluster.as_deref(), header(&copy, "host")), (Some("other"), "example.com-shadow"));
    assert_eq!((header(&copy, "x-secret"), header(&copy, "x-copy")), ("", "1"));
    let (cluster, copy) = copy_of(request("GET", "/two", &[("x-to", "third")]));
    assert_eq!((cluster.as_deref(), header(&copy, "host")), (Some("third"), "copy.test"));
    assert_eq!(copy_of(get("/two")).0, None);
}

#[test]
fn levels_act_in_envoys_order() {
    for (most_specific_wins, order) in
        [(false, ["cluster", "route", "host", "config"]), (true, ["cluster", "config", "host", "route"])]
    {
        let table = levels(most_specific_wins);
        let mut request = get("/");
        let route = find(&table, &request).unwrap();
        route.finalize_request(&mut request, &mut StreamInfo::sample(), &"up".into(), Originals::Told);
        let mut response = Response::new(());
        route.finalize_response(response.headers_mut(), &StreamInfo::sample());
        for headers in [request.headers(), response.headers()] {
            let added: Vec<_> = headers.get_all("x-added").iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(added, order);
            assert_eq!(headers["x-last"], order[3]);
        }
    }
}

#[test]
fn header_values_quote_what_the_client_sent() {
    let table = routes(
        "
- match: {prefix: /old}
  request_headers_to_add:
  - {header: {key: x-path, value: '%REQ(:path)%'}}
  - {header: {key: x-host, value: '%REQ(:authority)%'}}
  - {header: {key: x-both, value: '%REQ(x-in)%-%REQ(x-gone)%-%PROTOCOL%'}}
  request_headers_to_remove: [x-gone]
  route: {cluster: up, prefix_rewrite: /new, host_rewrite_literal: new.host}
",
    );
    let request = finalized(&table, request("GET", "/old?q", &[("x-in", "i"), ("x-gone", "g")]));
    assert_eq!(header(&request, "x-path"), "/old?q");
    assert_eq!(header(&request, "x-host"), "example.com");
    assert_eq!(header(&request, "x-both"), "i--HTTP/1.1");
    assert_eq!(request.uri().to_string(), "/new?q");
}

#[test]
fn request_headers_that_responses_quote_are_kept() {
    let quoting = "{header: {key: x-echo, value: '%REQ(x-in)%'}}";
    let table = table(&format!(
        "
virtual_hosts:
- name: v
  domains: ['*']
  routes:
  - {{match: {{prefix: /a}}, response_headers_to_add: [{quoting}], direct_response: {{status: 200}}}}
  - match: {{prefix: /}}
    route: {{weighted_clusters: {{clusters: [{{name: up, weight: 1, response_headers_to_add: [{quoting}]}}]}}}}
"
    ));
    assert_eq!(table.capture().request, ["x-in"]);
}

#[test]
fn the_most_specific_level_switches_a_filter() {
    let table = table(
        "
typed_per_filter_config:
  f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}
virtual_hosts:
- name: v
  domains: ['*']
  typed_per_filter_config:
    f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}
    g: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}
  routes:
  - match: {prefix: /off}
    direct_response: {status: 200}
    typed_per_filter_config: {f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}
  - match: {prefix: /cluster}
    route:
      weighted_clusters:
        clusters:
        - name: up
          weight: 1
          typed_per_filter_config: {g: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}}
  - {match: {prefix: /}, direct_response: {status: 200}}
- {name: w, domains: [w.test], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}
",
    );
    let switches = |request: Request<()>| {
        let route = find(&table, &request).unwrap();
        ["f", "g", "h"].map(|filter| route.filter_switch(filter))
    };
    assert_eq!(switches(get("/")), [Some(Switch::On), Some(Switch::Off), None]);
    assert_eq!(switches(get("/off")), [Some(Switch::Off), Some(Switch::Off), None]);
    assert_eq!(switches(get("/cluster")), [Some(Switch::On), Some(Switch::On), None]);
    let other =
        Request::builder().uri("/").header("host", "w.test").header("x-forwarded-proto", "http").body(()).unwrap();
    assert_eq!(switches(other), [Some(Switch::Off), None, None]);
}
