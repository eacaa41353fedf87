//! How the ingress speaks to a worker, written as the Envoy cluster that says the same.
//!
//! So a registered worker has the protocols, TLS and defaults that a cluster of the configuration has, by the same code.

use prost::{Message, Name};

use super::worker::Worker;
use crate::{
    config::{Field, Report, Segment, Severity},
    proto::{
        Any, cluster, core, endpoint, http_protocol_options as http, matcher, registration as wire,
        registration::Protocol, tls,
    },
};

/// The cluster of the configuration whose TLS settings the worker takes over.
pub fn borrowed_cluster(worker: &Worker) -> Option<&str> {
    worker.tls.as_ref().map(|tls| tls.as_cluster.as_str()).filter(|name| !name.is_empty())
}

/// The cluster `name` of workers like this one, without hosts, and without TLS that it takes over from another.
pub fn cluster(name: &str, worker: &Worker) -> cluster::Cluster {
    let own_tls = worker.tls.as_ref().filter(|tls| tls.as_cluster.is_empty());
    let socket = own_tls.map(|tls| transport_socket(tls, worker.protocol));
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..endpoint::ClusterLoadAssignment::default()
        }),
        transport_socket: socket,
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack(&http::HttpProtocolOptions {
                upstream_protocol_options: Some(protocol_options(worker.protocol, worker.tls.is_some())),
                ..http::HttpProtocolOptions::default()
            }),
        )]
        .into(),
        ..cluster::Cluster::default()
    }
}

fn protocol_options(protocol: Protocol, tls: bool) -> http::http_protocol_options::UpstreamProtocolOptions {
    use http::http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    };
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    match protocol {
        Protocol::Auto if tls => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            ..AutoHttpConfig::default()
        }),
        Protocol::Auto => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            ..UseDownstreamHttpConfig::default()
        }),
        Protocol::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
        Protocol::H2 | Protocol::H2c => {
            explicit(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()))
        }
    }
}

fn transport_socket(tls: &wire::UpstreamTls, protocol: Protocol) -> core::TransportSocket {
    let wire::UpstreamTls { ca_certificates, sni, subject_alt_names, as_cluster: _ } = tls;
    let inline = |text: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..core::DataSource::default()
    };
    let system = ca_certificates.is_empty();
    let validation = tls::CertificateValidationContext {
        trusted_ca: (!system).then(|| inline(ca_certificates)),
        system_root_certs: system.then(tls::certificate_validation_context::SystemRootCerts::default),
        match_typed_subject_alt_names: subject_alt_names.iter().map(|name| subject_alt_name(name)).collect(),
        ..tls::CertificateValidationContext::default()
    };
    let alpn: &[&str] = match protocol {
        Protocol::Http1 => &["http/1.1"],
        Protocol::H2 | Protocol::H2c => &["h2"],
        Protocol::Auto => &["h2", "http/1.1"],
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
            validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(
                validation,
            )),
            ..tls::CommonTlsContext::default()
        }),
        sni: sni.clone(),
        auto_host_sni: sni.is_empty(),
        auto_sni_san_validation: subject_alt_names.is_empty(),
        ..tls::UpstreamTlsContext::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&context))),
    }
}

fn subject_alt_name(name: &str) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let san_type = if name.parse::<std::net::IpAddr>().is_ok() {
        SanType::IpAddress
    } else if name.contains("://") {
        SanType::Uri
    } else {
        SanType::Dns
    };
    tls::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.to_owned())),
            ..matcher::StringMatcher::default()
        }),
        ..tls::SubjectAltNameMatcher::default()
    }
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Tells what is wrong with the cluster as what is wrong with the request that it was made from.
pub fn tell_as_of_request(report: Report, field: Field<'_>) {
    let field = field.key("tls");
    for problem in report.into_problems().into_iter().filter(|problem| problem.severity == Severity::Error) {
        let is = |segment: &Segment| matches!(segment, Segment::Key(key) if key == "trusted_ca");
        if problem.path.iter().any(is) {
            field.key("ca_certificates").error(problem.message);
        } else {
            field.error(problem.message);
        }
    }
}
