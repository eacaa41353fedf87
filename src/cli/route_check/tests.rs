//! The documented example, and files that go wrong.

use std::fs;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn check(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    Command::parse_from(["route-check"].iter().chain(arguments)).args.run()
}

fn example(file: &str) -> String {
    format!("{}/docs/route-check/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// What is not as wanted, of tests of the documented routes.
fn failures(tests: &str) -> Vec<String> {
    let table = Table::load(Path::new(&example("routes.yaml")), None).unwrap();
    let tests: Validation = load(&Source::new("tests.yaml", tests)).unwrap();
    let mut coverage = Coverage::of(&table.routes);
    tests.tests.iter().flat_map(|item| test::run(item, &table, &mut coverage).unwrap()).collect()
}

#[test]
fn the_documented_example_passes() {
    let (routes, tests) = (example("routes.yaml"), example("tests.yaml"));
    assert_eq!(check(&[&routes, &tests, "--fail-under", "100"]).unwrap(), ExitCode::SUCCESS);
    assert_eq!(check(&["-c", &routes, "-t", &tests, "--details"]).unwrap(), ExitCode::SUCCESS);
    let demanding = check(&[&routes, &tests, "--covall", "-f", "90", "--detailed-coverage"]).unwrap();
    assert_eq!(demanding, ExitCode::from(EXIT_FAILURE));
}

#[test]
fn what_is_wanted_and_what_came_are_told() {
    let found = failures(
        "
tests:
- test_name: all wrong
  input: {authority: shop.example.com, path: /api/x, method: GET, internal: true}
  validate:
    cluster_name: web
    virtual_cluster_name: orders
    virtual_host_name: other
    path_rewrite: /y
    host_rewrite: example.org
    path_redirect: /z
    code_redirect: 301
    request_header_matches: [{name: x-envoy-original-path, string_match: {exact: /}}]
    response_header_matches: [{name: x-shop}]
    request_header_fields: [{key: x-forwarded-proto, value: https}]
",
    );
    assert_eq!(
        found,
        [
            "expected: [web], actual: [api], test type: cluster_name",
            "expected: [orders], actual: [other], test type: virtual_cluster_name",
            "expected: [other], actual: [shop], test type: virtual_host_name",
            "expected: [/y], actual: [/x], test type: path_rewrite",
            "expected: [example.org], actual: [shop.example.com], test type: host_rewrite",
            "expected: [/z], actual: [], test type: path_redirect",
            "expected: [301], actual: [0], test type: code_redirect",
            "actual: [x-envoy-original-path: /api/x], test type: request_header_matches",
            "actual: [x-shop: ], test type: response_header_matches",
            "expected: [https], actual: [http], test type: request_header_fields",
        ]
    );
}

#[test]
fn a_whole_configuration_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let listener = |name: &str, cluster: &str| {
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          route_config: {{name: {name}, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}
          http_filters: [{{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
"
        )
    };
    let cluster = |name: &str| format!("  - {{name: {name}, connect_timeout: 1s}}\n");
    let text = format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}",
        listener("one", "a"),
        listener("two", "b"),
        cluster("a"),
        cluster("b")
    );
    let file = folder.path().join("envoy3.yaml");
    fs::write(&file, text).unwrap();
    let tests = folder.path().join("tests.json");
    let wanted = r#"{"tests": [{"test_name": "t", "input": {"authority": "x", "path": "/", "method": "GET"}, "validate": {"cluster_name": "b"}}]}"#;
    fs::write(&tests, wanted).unwrap();
    let (file, tests) = (file.to_str().unwrap(), tests.to_str().unwrap());
    assert_eq!(check(&[file, tests, "--route-config", "two"]).unwrap(), ExitCode::SUCCESS);
    assert_eq!(check(&[file, tests, "--route-config", "one"]).unwrap(), ExitCode::from(EXIT_FAILURE));
    let ambiguous = format!("{:#}", check(&[file, tests]).unwrap_err());
    assert!(
        ambiguous.ends_with("several route configurations, \"one\" and \"two\": say --route-config"),
        "{ambiguous}"
    );
    assert!(check(&[file, tests, "--route-config", "three"]).is_err());
    assert!(check(&[tests, file]).is_err(), "the files are in the wrong order");
}
