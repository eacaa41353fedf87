//! Constraints that hold, and how a violation is said.

use prost::Message;

use super::*;
use crate::config::Report;
use crate::proto;

fn problems<M: Message + prost::Name>(message: &M) -> Vec<String> {
    let descriptor = proto::pool().get_message_by_name(&M::full_name()).expect("a known message");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).expect("well-formed");
    let report = Report::new();
    check(&message, Field::root(&report));
    report.into_problems().iter().map(ToString::to_string).collect()
}

#[test]
fn required_fields_and_choices_are_asked_for() {
    let route = proto::route::Route::default();
    assert_eq!(
        problems(&route),
        [
            "one of route, redirect, direct_response, filter_action, non_forwarding_action is required",
            "match: is required",
        ]
    );
    let address = proto::core::Address { address: None };
    assert_eq!(problems(&address), ["one of socket_address, pipe, envoy_internal_address is required"]);
}

#[test]
fn messages_inside_lists_and_any_are_checked() {
    let hcm = proto::hcm::HttpConnectionManager { codec_type: 77, ..Default::default() };
    let filter = proto::listener::Filter {
        name: "hcm".to_owned(),
        config_type: Some(proto::listener::filter::ConfigType::TypedConfig(envoy_types::util::pack_any(hcm))),
    };
    let chain = proto::listener::FilterChain {
        filters: vec![filter, proto::listener::Filter::default()],
        ..Default::default()
    };
    assert_eq!(
        problems(&chain),
        [
            "filters[0].typed_config: one of rds, route_config, scoped_routes is required",
            "filters[0].typed_config.codec_type: has no value 77",
            "filters[0].typed_config.stat_prefix: must not be empty",
            "filters[1].name: must not be empty",
        ]
    );
}

#[test]
fn numbers_durations_and_lists_are_bounded() {
    let address = proto::core::SocketAddress {
        address: "a".to_owned(),
        port_specifier: Some(proto::core::socket_address::PortSpecifier::PortValue(70000)),
        ..Default::default()
    };
    assert_eq!(problems(&address), ["port_value: must be at most 65535, is 70000"]);
    let cluster = proto::cluster::Cluster {
        name: "c".to_owned(),
        connect_timeout: Some(proto::Duration { seconds: 0, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(problems(&cluster), ["connect_timeout: must be above 0s, is 0s"]);
    let host = proto::route::VirtualHost { name: "v".to_owned(), ..Default::default() };
    assert_eq!(problems(&host), ["domains: must not be empty"]);
}

#[test]
fn wrappers_are_judged_by_what_they_wrap_and_only_if_set() {
    let mut options = proto::core::Http2ProtocolOptions::default();
    assert_eq!(problems(&options), Vec::<String>::new());
    options.max_concurrent_streams = Some(proto::UInt32Value { value: 0 });
    assert_eq!(problems(&options), ["max_concurrent_streams: must be at least 1 and at most 2147483647, is 0"]);
}

#[test]
fn header_names_must_be_able_to_be_sent() {
    let header = proto::core::HeaderValue { key: "a\nb".to_owned(), ..Default::default() };
    assert_eq!(problems(&header), ["key: must be the name of a header"]);
}

#[test]
fn deprecated_fields_are_warned_of() {
    let cluster = proto::cluster::Cluster {
        name: "c".to_owned(),
        track_cluster_stats: None,
        protocol_selection: 1,
        ..Default::default()
    };
    assert_eq!(problems(&cluster), ["protocol_selection: is deprecated by Envoy"]);
}
