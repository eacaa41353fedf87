//! Documents and the messages or problems they become.

use super::*;
use crate::config::{Report, tree};
use crate::proto;
use prost::Message;

/// What a document becomes, and the problems found on the way.
fn read<M: Message + prost::Name + Default>(document: &str) -> (M, Vec<String>) {
    let descriptor = proto::pool().get_message_by_name(&M::full_name()).expect("a known message");
    let report = Report::new();
    let root = tree::parse("test.yaml", document).expect("valid YAML");
    let bytes = write(&descriptor, &root, document, Field::root(&report));
    let message = M::decode(bytes.as_slice()).expect("well-formed bytes");
    (message, report.into_problems().iter().map(ToString::to_string).collect())
}

fn accepted<M: Message + prost::Name + Default>(document: &str) -> M {
    let (message, problems) = read(document);
    assert_eq!(problems, Vec::<String>::new(), "{document}");
    message
}

fn problems<M: Message + prost::Name + Default>(document: &str) -> Vec<String> {
    read::<M>(document).1
}

#[test]
fn fields_are_read_in_either_spelling() {
    let document =
        "{name: a, filterChains: [{transport_socket_connect_timeout: 5s}], perConnectionBufferLimitBytes: 7}";
    let listener: proto::listener::Listener = accepted(document);
    assert_eq!(listener.name, "a");
    assert_eq!(listener.filter_chains[0].transport_socket_connect_timeout.as_ref().map(|d| d.seconds), Some(5));
    assert_eq!(listener.per_connection_buffer_limit_bytes.map(|value| value.value), Some(7));
}

#[test]
fn one_element_stands_for_a_list_of_it() {
    let host: proto::route::VirtualHost = accepted("{name: a, domains: \"*\", routes: {name: r}}");
    assert_eq!((host.domains, host.routes.len()), (vec!["*".to_owned()], 1));
}

#[test]
fn null_is_unset() {
    let document = "{name: ~, domains: , routes: [{name: r}, null]}";
    let (host, problems) = read::<proto::route::VirtualHost>(document);
    assert_eq!((host.domains.len(), host.routes.len()), (0, 1));
    assert_eq!(problems, ["routes[1]: has no effect: an empty element of a list is left out"]);
}

#[test]
fn durations_come_as_text_or_as_their_fields() {
    let cluster: proto::cluster::Cluster = accepted("{connect_timeout: 0.25s, dns_refresh_rate: {seconds: 3}}");
    assert_eq!(cluster.connect_timeout.map(|d| (d.seconds, d.nanos)), Some((0, 250_000_000)));
    assert_eq!(cluster.dns_refresh_rate.map(|d| d.seconds), Some(3));
    assert_eq!(
        problems::<proto::cluster::Cluster>("connect_timeout: 5"),
        ["connect_timeout: expected a duration such as 5s or 0.25s, found the number 5"]
    );
}

#[test]
fn typed_configs_are_read_as_the_type_that_they_name() {
    let document = "
name: a
typed_config:
  stat_prefix: ingress
  \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
  http_filters:
  - name: r
    typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, start_child_span: on}
";
    let filter: proto::listener::Filter = accepted(document);
    let Some(proto::listener::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        panic!("typed_config")
    };
    let hcm = proto::hcm::HttpConnectionManager::decode(any.value.as_slice()).expect("the connection manager");
    assert_eq!(hcm.stat_prefix, "ingress");
    let Some(proto::hcm::http_filter::ConfigType::TypedConfig(any)) = &hcm.http_filters[0].config_type else {
        panic!("typed_config")
    };
    assert!(proto::router_filter::Router::decode(any.value.as_slice()).expect("the router").start_child_span);
}

#[test]
fn our_own_typed_configs_are_read_like_envoys() {
    let document = "
name: portreeve.filters.http.registration
typed_config: {\"@type\": type.googleapis.com/portreeve.registration.v1.RegistrationFilter}
";
    accepted::<proto::hcm::HttpFilter>(document);
    let wrong =
        "typed_config: {\"@type\": type.googleapis.com/portreeve.registration.v1.RegistrationFilter, nothing: 1}";
    assert_eq!(
        problems::<proto::hcm::HttpFilter>(wrong),
        ["typed_config.nothing: no field \"nothing\" in portreeve.registration.v1.RegistrationFilter"]
    );
}

#[test]
fn a_typed_struct_is_read_as_the_type_that_it_names() {
    let document = "
typed_config:
  \"@type\": type.googleapis.com/udpa.type.v1.TypedStruct
  type_url: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  value: {suppress_envoy_headers: true, wrong: 1}
";
    let (filter, problems) = read::<proto::hcm::HttpFilter>(document);
    let Some(proto::hcm::http_filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        panic!("typed_config")
    };
    assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "{problems:?}");
    assert!(proto::router_filter::Router::decode(any.value.as_slice()).expect("the router").suppress_envoy_headers);
    assert_eq!(
        problems,
        ["typed_config.value.wrong: no field \"wrong\" in envoy.extensions.filters.http.router.v3.Router"]
    );
}

#[test]
fn wrappers_inside_any_hold_their_content_under_value() {
    let metadata: proto::core::Metadata =
        accepted("typed_filter_metadata: {a: {\"@type\": type.googleapis.com/google.protobuf.StringValue, value: x}}");
    let any = &metadata.typed_filter_metadata["a"];
    assert_eq!(String::decode(any.value.as_slice()), Ok("x".to_owned()));
}

#[test]
fn unknown_types_are_refused_with_the_nearest() {
    let name = "type.googleapis.com/envoy.config.filter.http.router.v2.Router";
    assert_eq!(
        problems::<proto::hcm::HttpFilter>(&format!("typed_config: {{\"@type\": {name}}}")),
        ["typed_config.@type: unknown type \"envoy.config.filter.http.router.v2.Router\" \
          (did you mean \"envoy.extensions.filters.http.router.v3.Router\"?)"]
    );
    let problems = problems::<proto::hcm::HttpFilter>("typed_config: {\"@type\": no.slash}");
    assert_eq!(problems, ["typed_config.@type: expected type.googleapis.com/no.slash"]);
}

#[test]
fn who_only_names_an_extension_reads_what_to_write() {
    for document in ["name: envoy.filters.http.router", "{name: envoy.filters.http.router, typed_config: {}}"] {
        let (filter, problems) = read::<proto::hcm::HttpFilter>(document);
        assert_eq!(
            problems,
            ["name: a name alone configures nothing: \
              add typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}"]
        );
        let Some(proto::hcm::http_filter::ConfigType::TypedConfig(any)) = filter.config_type else { panic!("typed") };
        assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router");
    }
    assert!(accepted::<proto::hcm::HttpFilter>("name: envoy.filters.http.lua").config_type.is_none());
    accepted::<proto::hcm::HttpFilter>("{name: envoy.filters.http.router, config_discovery: {}}");
}

#[test]
fn structs_hold_what_yaml_1_1_says() {
    let metadata: proto::Struct = accepted("{a: yes, b: \"yes\", c: 1.5, d: [~, 0o17], e: {f: x}}");
    let kind = |key: &str| metadata.fields[key].kind.clone().expect("a kind");
    assert_eq!(kind("a"), proto::value::Kind::BoolValue(true));
    assert_eq!(kind("b"), proto::value::Kind::StringValue("yes".to_owned()));
    assert_eq!(kind("c"), proto::value::Kind::NumberValue(1.5));
    assert!(matches!(kind("d"), proto::value::Kind::ListValue(list) if list.values.len() == 2));
    assert!(matches!(kind("e"), proto::value::Kind::StructValue(_)));
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let document = "
name: [1]
adress: {socket_address: {address: 10.0.0.1, port_value: none}}
filter_chains:
- filters: {name: 5}
  name: a
  name: b
- transport_socket: tls
<<: {}
deprecated_v1: {bind_to_port: maybe}
";
    assert_eq!(
        problems::<proto::listener::Listener>(document),
        [
            "name: expected a string, found a list",
            "adress: no field \"adress\" in envoy.config.listener.v3.Listener (did you mean \"address\"?)",
            "address.socket_address.port_value: expected a positive integer of 32 bits, found \"none\"",
            "filter_chains[0].filters[0].name: expected a string, found the number 5: write it in quotes",
            "filter_chains[0].name: is given twice",
            "filter_chains[1].transport_socket: \
             expected a mapping (envoy.config.core.v3.TransportSocket), found \"tls\"",
            "<<: merge keys are not part of the YAML that Envoy reads: use an alias for the whole value",
            "deprecated_v1.bind_to_port: expected true or false, found \"maybe\"",
        ]
    );
}

#[test]
fn members_of_a_choice_exclude_each_other() {
    assert_eq!(
        problems::<proto::route::RouteMatch>("{prefix: /, path: /a}"),
        ["path: only one of prefix, path, safe_regex, connect_matcher, path_separated_prefix, path_match_policy \
          may be set, and prefix is set already"]
    );
}

#[test]
fn fields_of_the_old_api_name_their_successor() {
    assert_eq!(
        problems::<proto::cluster::Cluster>("hosts: []"),
        ["hosts: no field \"hosts\" in envoy.config.cluster.v3.Cluster: Envoy's v2 API had it, v3 has load_assignment"]
    );
}

#[test]
fn secrets_are_not_repeated() {
    let document = "{private_key: \"-----BEGIN\", password: {inline_string: [x], inlineString: y}}";
    assert_eq!(
        problems::<proto::tls::TlsCertificate>(document),
        [
            "private_key: expected a mapping (envoy.config.core.v3.DataSource), found something else",
            "password.inline_string: expected a string, found something else",
            "password.inlineString: is given twice",
        ]
    );
}
