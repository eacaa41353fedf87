//! The fields of an HTTP connection manager that decide about headers.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    config::field::Field,
    filter::FactoryContext,
    http::header_mutations::OrderedMutations,
    http::headers::{
        CertDetails, CertFormat, ClientCertRules, ForwardProto, Forwarding, HeaderRules, InternalAddresses,
        IpDetection, ServerHeader, UserAgent,
    },
    matcher::CidrRange,
    proto::{self, core, early_header_mutation, hcm, ip_by_header, ip_by_xff},
};
use core::scheme_header_transformation::Transformation;
use hcm::http_connection_manager as proto_manager;

/// Default of `server_name`.
const SERVER_NAME: &str = "envoy";

/// These fields, as a connection manager's message holds them.
pub(super) struct Fields<'a> {
    pub(super) add_user_agent: &'a Option<proto::BoolValue>,
    pub(super) server_name: &'a str,
    pub(super) server_header_transformation: &'a i32,
    pub(super) scheme_header_transformation: &'a Option<core::SchemeHeaderTransformation>,
    pub(super) use_remote_address: &'a Option<proto::BoolValue>,
    pub(super) xff_num_trusted_hops: &'a u32,
    pub(super) original_ip_detection_extensions: &'a [core::TypedExtensionConfig],
    pub(super) internal_address_config: &'a Option<proto_manager::InternalAddressConfig>,
    pub(super) skip_xff_append: &'a bool,
    pub(super) via: &'a str,
    pub(super) generate_request_id: &'a Option<proto::BoolValue>,
    pub(super) preserve_external_request_id: &'a bool,
    pub(super) always_set_request_id_in_response: &'a bool,
    pub(super) forward_client_cert_details: &'a i32,
    pub(super) set_current_client_cert_details: &'a Option<proto_manager::SetCurrentClientCertDetails>,
    pub(super) represent_ipv4_remote_address_as_ipv4_mapped_ipv6: &'a bool,
    pub(super) append_x_forwarded_port: &'a bool,
    pub(super) forward_proto_config: &'a Option<hcm::ForwardProtoConfig>,
}

/// Converts and checks them.
pub(super) fn rules(fields: &Fields<'_>, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<HeaderRules> {
    let adds_user_agent = fields.add_user_agent.as_ref().is_some_and(|add| add.value);
    let server_name = name_of_server(fields.server_name);
    let via = header_value(fields.via, field.key("via"));
    Some(HeaderRules {
        use_remote_address: fields.use_remote_address.as_ref().is_some_and(|value| value.value),
        xff_num_trusted_hops: *fields.xff_num_trusted_hops as usize,
        skip_xff_append: *fields.skip_xff_append,
        append_x_forwarded_port: *fields.append_x_forwarded_port,
        ip_detection: ip_detection(fields, field),
        internal_addresses: internal_addresses(
            fields.internal_address_config.as_ref(),
            field.key("internal_address_config"),
        ),
        ipv4_as_ipv6: *fields.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        scheme: scheme(fields.scheme_header_transformation.as_ref()),
        forward_proto: forward_proto(fields.forward_proto_config.as_ref()),
        client_cert: ClientCertRules {
            forwarding: forwarding(*fields.forward_client_cert_details),
            details: cert_details(fields.set_current_client_cert_details.as_ref()),
        },
        user_agent: if adds_user_agent { user_agent(field, cx) } else { None },
        via: via.filter(|via| !via.is_empty()),
        generate_request_id: fields.generate_request_id.as_ref().is_none_or(|value| value.value),
        preserve_external_request_id: *fields.preserve_external_request_id,
        always_set_request_id_in_response: *fields.always_set_request_id_in_response,
        server_header: server_header(*fields.server_header_transformation),
        server_name: header_value(server_name, field.key("server_name"))?,
    })
}

/// What the proxy calls itself.
pub(super) fn name_of_server(server_name: &str) -> &str {
    if server_name.is_empty() { SERVER_NAME } else { server_name }
}

fn header_value(text: &str, field: Field<'_>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(text).ok();
    if value.is_none() {
        field.error("has characters that a header may not have");
    }
    value
}

fn user_agent(field: Field<'_>, cx: &FactoryContext<'_>) -> Option<UserAgent> {
    let field = field.key("add_user_agent");
    let node = header_value(cx.service_node, field).filter(|node| !node.is_empty());
    Some(UserAgent { cluster: header_value(cx.service_cluster, field)?, node })
}

fn server_header(transformation: i32) -> ServerHeader {
    match proto_manager::ServerHeaderTransformation::try_from(transformation) {
        Ok(proto_manager::ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(proto_manager::ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
        Ok(proto_manager::ServerHeaderTransformation::Overwrite) | Err(_) => ServerHeader::Overwrite,
    }
}

fn scheme(transformation: Option<&core::SchemeHeaderTransformation>) -> Option<HeaderValue> {
    match transformation?.transformation.as_ref()? {
        Transformation::SchemeToOverwrite(scheme) if scheme == "https" => Some(HeaderValue::from_static("https")),
        Transformation::SchemeToOverwrite(_) => Some(HeaderValue::from_static("http")),
    }
}

fn forward_proto(config: Option<&hcm::ForwardProtoConfig>) -> ForwardProto {
    let Some(hcm::ForwardProtoConfig { https_destination_ports, http_destination_ports }) = config else {
        return ForwardProto::default();
    };
    ForwardProto { https_ports: https_destination_ports.clone(), http_ports: http_destination_ports.clone() }
}

fn internal_addresses(config: Option<&proto_manager::InternalAddressConfig>, field: Field<'_>) -> InternalAddresses {
    let Some(proto_manager::InternalAddressConfig { unix_sockets, cidr_ranges }) = config else {
        return InternalAddresses::default();
    };
    let field = field.key("cidr_ranges");
    let ranges = cidr_ranges.iter().enumerate();
    InternalAddresses {
        unix_sockets: *unix_sockets,
        cidr_ranges: ranges.filter_map(|(index, range)| CidrRange::from_proto(range, field.index(index))).collect(),
    }
}

fn ip_detection(fields: &Fields<'_>, field: Field<'_>) -> Vec<IpDetection> {
    let extensions = fields.original_ip_detection_extensions;
    if !extensions.is_empty() {
        let field = field.key("original_ip_detection_extensions");
        if fields.use_remote_address.as_ref().is_some_and(|value| value.value) {
            field.error("Original IP detection extensions and use_remote_address may not be mixed");
        }
        if *fields.xff_num_trusted_hops > 0 {
            field.error("Original IP detection extensions and xff_num_trusted_hops may not be mixed");
        }
    }
    let field = field.key("original_ip_detection_extensions");
    extensions.iter().enumerate().filter_map(|(index, extension)| detection(extension, field.index(index))).collect()
}

fn detection(extension: &core::TypedExtensionConfig, field: Field<'_>) -> Option<IpDetection> {
    let core::TypedExtensionConfig { name: _, typed_config } = extension;
    let any = field.required("typed_config", typed_config)?;
    let field = field.key("typed_config");
    match any.type_url.rsplit('.').next().unwrap_or_default() {
        "XffConfig" => {
            let ip_by_xff::XffConfig { xff_num_trusted_hops, xff_trusted_cidrs, skip_xff_append } =
                field.unpack(any)?;
            let append = skip_xff_append.is_some_and(|skip| !skip.value);
            let Some(ip_by_xff::XffTrustedCidrs { cidrs }) = xff_trusted_cidrs else {
                return Some(IpDetection::TrustedHops { hops: xff_num_trusted_hops as usize, append });
            };
            if xff_num_trusted_hops > 0 {
                field.error("Cannot set both xff_num_trusted_hops and xff_trusted_cidrs");
            }
            let field = field.key("xff_trusted_cidrs");
            let field = field.key("cidrs");
            let ranges = cidrs.iter().enumerate();
            let ranges = ranges.filter_map(|(index, range)| CidrRange::from_proto(range, field.index(index))).collect();
            Some(IpDetection::TrustedRanges { ranges, append })
        }
        "CustomHeaderConfig" => {
            let ip_by_header::CustomHeaderConfig {
                header_name,
                allow_extension_to_set_address_as_trusted,
                reject_with_status,
            } = field.unpack(any)?;
            let name = HeaderName::from_bytes(header_name.as_bytes()).ok()?;
            let reject = reject_with_status.map(|status| {
                let status = u16::try_from(status.code).ok().filter(|code| (400..=511).contains(code));
                status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN)
            });
            Some(IpDetection::Header { name, trusted: allow_extension_to_set_address_as_trusted, reject })
        }
        other => {
            field.error(format!("{other}: valid in Envoy, not implemented by Portreeve yet"));
            None
        }
    }
}

fn forwarding(details: i32) -> Forwarding {
    use proto_manager::ForwardClientCertDetails as Details;

    match Details::try_from(details) {
        Ok(Details::ForwardOnly) => Forwarding::ForwardOnly,
        Ok(Details::AppendForward) => Forwarding::AppendForward,
        Ok(Details::SanitizeSet) => Forwarding::SanitizeSet,
        Ok(Details::AlwaysForwardOnly) => Forwarding::AlwaysForwardOnly,
        Ok(Details::Sanitize) | Err(_) => Forwarding::Sanitize,
    }
}

fn cert_details(details: Option<&proto_manager::SetCurrentClientCertDetails>) -> CertDetails {
    let Some(details) = details else { return CertDetails::default() };
    let proto_manager::SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } = details;
    CertDetails {
        cert: *cert,
        chain: *chain,
        subject: subject.as_ref().is_some_and(|subject| subject.value),
        issuer: *issuer,
        uri: *uri,
        dns: *dns,
        format: match proto_manager::ForwardClientCertFormat::try_from(*format) {
            Ok(proto_manager::ForwardClientCertFormat::Json) => CertFormat::Json,
            Ok(proto_manager::ForwardClientCertFormat::Text) | Err(_) => CertFormat::Text,
        },
    }
}

/// Whether requests bear the scheme of the connection that they go by.
pub(super) fn matches_upstream_scheme(transformation: Option<&core::SchemeHeaderTransformation>) -> bool {
    transformation.is_some_and(|rules| rules.match_upstream && rules.transformation.is_none())
}

/// Converts `early_header_mutation_extensions`.
pub(super) fn early_mutations(extensions: &[core::TypedExtensionConfig], field: Field<'_>) -> Vec<OrderedMutations> {
    let field = field.key("early_header_mutation_extensions");
    let convert = |(index, extension): (usize, &core::TypedExtensionConfig)| {
        let field = field.index(index);
        let core::TypedExtensionConfig { name: _, typed_config } = extension;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let early_header_mutation::HeaderMutation { mutations } = field.unpack(any)?;
        Some(OrderedMutations::from_list(&mutations, field.key("mutations")))
    };
    extensions.iter().enumerate().filter_map(convert).collect()
}

/// Request ids are UUIDs, with or without a word on tracing in them, which nothing here says yet.
pub(super) fn check_request_ids(extension: Option<&hcm::RequestIdExtension>, field: Field<'_>) {
    let Some(hcm::RequestIdExtension { typed_config: Some(any) }) = extension else { return };
    if !any.type_url.ends_with(".UuidRequestIdConfig") {
        field
            .key("typed_config")
            .error("request ids are UUIDs: any other extension is not implemented by Portreeve yet");
    }
}
