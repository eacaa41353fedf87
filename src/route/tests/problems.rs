//! What is refused or warned of, and where.

use super::convert;

fn problems(yaml: &str) -> Vec<String> {
    convert(yaml).1
}

/// The problems of one virtual host's settings and routes, with paths from there.
fn of_host(yaml: &str) -> Vec<String> {
    let lines = yaml.trim_start_matches('\n').replace('\n', "\n  ");
    let problems = problems(&format!("virtual_hosts:\n- name: v\n  domains: ['*']\n  {lines}"));
    problems.iter().map(|problem| problem.trim_start_matches("virtual_hosts[0].").to_owned()).collect()
}

#[test]
fn wrong_values() {
    let found = of_host(
        "
routes:
- match: {prefix: /, headers: [{name: 'a b'}]}
  redirect: {port_redirect: 70000}
- match: {safe_regex: {regex: '('}}
  request_headers_to_add: [{header: {key: ':path', value: x}}]
  response_headers_to_remove: [host]
  route: {cluster: nope, host_rewrite_header: 'a b'}
- match: {prefix: /}
  route: {weighted_clusters: {clusters: [{name: up, weight: 0}, {weight: 1}, {name: up}, {name: nope, weight: 1}]}}
- match: {prefix: /}
  route: {weighted_clusters: {clusters: [{name: up, weight: 0}]}}
- match: {prefix: /}
  route: {cluster: up, prefix_rewrite: /a, regex_rewrite: {pattern: {regex: a}, substitution: b}}
- match: {prefix: /}
  route: {cluster: up, prefix_rewrite: 'a b'}
- match: {prefix: /}
  route: {cluster: up, timeout: -1s, upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: WebSocket}]}
- match: {prefix: /}
  route: {cluster_specifier_plugin: none}
",
    );
    assert_eq!(
        found,
        [
            "routes[0].match.headers[0].name: not a valid header name",
            "routes[0].redirect.port_redirect: must be at most 65535",
            "routes[1].request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified",
            "routes[1].response_headers_to_remove[0]: :-prefixed or host headers may not be modified",
            "routes[1].match.safe_regex.regex: invalid regular expression: unclosed group",
            "routes[1].route.cluster: there is no cluster \"nope\"",
            "routes[1].route.host_rewrite_header: not a valid header name",
            "routes[2].route.weighted_clusters.clusters[1]: must have exactly one of name and cluster_header",
            "routes[2].route.weighted_clusters.clusters[2].weight: is required",
            "routes[2].route.weighted_clusters.clusters[3].name: there is no cluster \"nope\"",
            "routes[3].route.weighted_clusters.clusters: the sum of the weights must be 1 to 4294967295",
            "routes[4].route.regex_rewrite: cannot stand beside prefix_rewrite",
            "routes[5].route.prefix_rewrite: holds what a path cannot hold",
            "routes[6].route.timeout: must be a duration of 0s to 315576000000s",
            "routes[6].route.upgrade_configs[1].upgrade_type: \"websocket\" is listed twice",
            "routes[7].route.cluster_specifier_plugin: Unknown cluster specifier plugin name: none is used in the route",
        ]
    );
}

#[test]
fn what_decides_where_traffic_goes_is_not_ignored() {
    let found = of_host(
        "
routes:
- match: {prefix: /a}
  route: {cluster: up}
  typed_per_filter_config:
    envoy.filters.http.rbac: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}
",
    );
    let expected = ["routes[0].typed_per_filter_config[\"envoy.filters.http.rbac\"]"];
    assert_eq!(found, expected.map(|path| format!("{path}: valid in Envoy, not implemented by Portreeve yet")));
}

#[test]
fn what_only_makes_it_better_is_ignored_with_a_warning() {
    let found = of_host(
        "
retry_policy: {retry_on: 5xx}
routes:
- match: {prefix: /}
  decorator: {operation: o}
  typed_per_filter_config:
    envoy.filters.http.cors: {'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}
  route: {cluster: up, retry_policy: {retry_on: 5xx}, hash_policy: [{connection_properties: {source_ip: true}}]}
",
    );
    assert_eq!(
        found,
        [
            "routes[0].decorator: has no effect: requests are not traced yet",
            "routes[0].route.hash_policy: has no effect: no load balancer here uses a hash yet",
            "routes[0].typed_per_filter_config[\"envoy.filters.http.cors\"]: \
             has no effect: Portreeve has no such filter yet",
        ]
    );
}

#[test]
fn clusters_need_not_exist_if_the_configuration_says_so() {
    let yaml = "
virtual_hosts:
- {name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: later}}]}
";
    assert_eq!(problems(yaml), ["virtual_hosts[0].routes[0].route.cluster: there is no cluster \"later\""]);
    assert_eq!(problems(&format!("validate_clusters: false\n{yaml}")), [""; 0]);
}

#[test]
fn bodies_have_a_limit() {
    let body = "x".repeat(4097);
    let found = of_host(&format!(
        "routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}]"
    ));
    let expected =
        "routes[0].direct_response.body: has 4097 bytes, more than max_direct_response_body_size_bytes, 4096";
    assert_eq!(found, [expected]);
}

#[test]
fn unknown_plugins_are_refused() {
    let found = problems(
        "
cluster_specifier_plugins:
- extension:
    name: lua
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig
      source_code: {inline_string: x}
",
    );
    assert_eq!(
        found,
        ["cluster_specifier_plugins[0].extension.typed_config: \
          envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig: valid in Envoy, not implemented by Portreeve yet"]
    );
}

#[test]
fn routes_that_can_never_match_are_told() {
    let found = of_host(
        "
routes:
- {name: a, match: {prefix: /a}, direct_response: {status: 200}}
- {name: b, match: {path: /ab}, direct_response: {status: 200}}
- {name: c, match: {prefix: /A}, direct_response: {status: 200}}
- {name: d, match: {prefix: /b, headers: [{name: x}]}, direct_response: {status: 200}}
- {name: e, match: {prefix: /b}, direct_response: {status: 200}}
- {name: f, match: {path_separated_prefix: /b/c, headers: [{name: x}]}, direct_response: {status: 200}}
- {name: g, match: {path_separated_prefix: /c}, direct_response: {status: 200}}
- {name: h, match: {prefix: /c}, direct_response: {status: 200}}
- {name: i, match: {prefix: /c/}, direct_response: {status: 200}}
- {name: j, match: {safe_regex: {regex: '/d+'}}, direct_response: {status: 200}}
- {name: k, match: {path: /ddd}, direct_response: {status: 200}}
- {name: l, match: {prefix: /D, case_sensitive: false}, direct_response: {status: 200}}
- {name: m, match: {path: /dx}, direct_response: {status: 200}}
- {name: every, match: {prefix: /}, direct_response: {status: 200}}
- {name: o, match: {connect_matcher: {}}, direct_response: {status: 200}}
- {name: p, match: {safe_regex: {regex: '/e'}}, direct_response: {status: 200}}
",
    );
    let expected = [(1, 0), (5, 4), (8, 6), (10, 9), (12, 11), (15, 13)].map(|(late, early)| {
        format!(
            "routes[{late}].match: can never match: an earlier route takes all that it accepts: virtual_hosts[0].routes[{early}]"
        )
    });
    assert_eq!(found, expected);
}

#[test]
fn settings_of_filters_may_be_optional() {
    let found = of_host(
        "
routes:
- match: {prefix: /}
  direct_response: {status: 200}
  typed_per_filter_config:
    a: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig}
    b:
      '@type': type.googleapis.com/envoy.config.route.v3.FilterConfig
      is_optional: true
      config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}
    c:
      '@type': type.googleapis.com/envoy.config.route.v3.FilterConfig
      config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}
",
    );
    assert_eq!(
        found,
        [
            "routes[0].typed_per_filter_config[\"a\"]: Empty route/virtual host per filter configuration for a filter",
            "routes[0].typed_per_filter_config[\"b\"].config: is left out, as is_optional permits: Portreeve has no such filter yet",
            "routes[0].typed_per_filter_config[\"c\"].config: valid in Envoy, not implemented by Portreeve yet",
        ]
    );
}
