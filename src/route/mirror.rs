//! `RequestMirrorPolicy`: copies of requests for another cluster, whose answers nobody waits for.

use http::{HeaderValue, Request};

use super::{Context, cluster_specifier::Target, rewrite::literal_host};
use crate::{
    config::Field,
    http::{authority, header_mutations::HeaderMutations, set_authority},
    proto::{self, common_mutation_rules::header_mutation::Action},
    runtime::{Runtime, RuntimeFraction},
    stream_info::StreamInfo,
};

/// A compiled `RequestMirrorPolicy`.
#[derive(Debug)]
pub struct MirrorPolicy {
    target: Target,
    fraction: Option<RuntimeFraction>,
    /// One for each change, in their order.
    mutations: Vec<HeaderMutations>,
    host: HostOfCopy,
}

/// The host that a copy is for.
#[derive(Debug)]
enum HostOfCopy {
    /// That of the request.
    Same,
    /// The same, with `-shadow` behind its name.
    Suffixed,
    Literal(HeaderValue),
}

impl MirrorPolicy {
    pub(super) fn list_from_proto(
        protos: &[proto::route::route_action::RequestMirrorPolicy],
        context: &Context<'_>,
        list: Field<'_>,
    ) -> Vec<MirrorPolicy> {
        let policies = protos.iter().enumerate();
        policies.filter_map(|(i, proto)| MirrorPolicy::from_proto(proto, context, list.index(i))).collect()
    }

    fn from_proto(
        proto: &proto::route::route_action::RequestMirrorPolicy,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<MirrorPolicy> {
        let proto::route::route_action::RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            trace_sampled,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = proto;
        field.ignored("trace_sampled", trace_sampled, "requests are not traced yet");
        let target = match (cluster.is_empty(), cluster_header.is_empty()) {
            (false, true) => Target::named(cluster, context, field.key("cluster")),
            (true, false) => Target::header(cluster_header, field.key("cluster_header")),
            _ => {
                field.error("must have exactly one of cluster and cluster_header");
                None
            }
        };
        let host = match (host_rewrite_literal.as_str(), disable_shadow_host_suffix_append) {
            ("", true) => Some(HostOfCopy::Same),
            ("", false) => Some(HostOfCopy::Suffixed),
            (host, _) => literal_host(host, field.key("host_rewrite_literal")).map(HostOfCopy::Literal),
        };
        let list = field.key("request_headers_mutations");
        let mutations = request_headers_mutations.iter().enumerate();
        let mutations = mutations.filter_map(|(i, proto)| mutation(proto, list.index(i))).collect();
        Some(MirrorPolicy {
            target: target?,
            fraction: runtime_fraction.as_ref().map(RuntimeFraction::from_proto),
            mutations,
            host: host?,
        })
    }

    /// Whether this request is to be copied.
    #[must_use]
    pub fn holds(&self, runtime: &Runtime, random: u64) -> bool {
        self.fraction.as_ref().is_none_or(|fraction| fraction.holds(runtime, random))
    }

    /// The cluster for a copy of the request; `None` if a header should name it and does not.
    #[must_use]
    pub fn cluster<'a, B>(&'a self, request: &'a Request<B>) -> Option<&'a str> {
        self.target.name(request.into()).filter(|name| !name.is_empty())
    }

    /// Makes of a copy what is sent.
    pub fn finalize<B>(&self, copy: &mut Request<B>, info: &StreamInfo) {
        for mutation in &self.mutations {
            mutation.apply_to_request(copy.headers_mut(), info);
        }
        let host = match &self.host {
            HostOfCopy::Same => None,
            HostOfCopy::Suffixed => {
                authority(copy).and_then(|host| HeaderValue::from_str(&with_suffix(host, "-shadow")).ok())
            }
            HostOfCopy::Literal(host) => Some(host.clone()),
        };
        if let Some(host) = host {
            set_authority(copy, host);
        }
    }
}

fn mutation(proto: &proto::common_mutation_rules::HeaderMutation, field: Field<'_>) -> Option<HeaderMutations> {
    let proto::common_mutation_rules::HeaderMutation { action } = proto;
    match action.as_ref()? {
        Action::Remove(name) => {
            let names = std::slice::from_ref(name);
            Some(HeaderMutations::from_proto((&[], field.key("append")), (names, field.key("remove"))))
        }
        Action::Append(option) => {
            let options = std::slice::from_ref(option);
            Some(HeaderMutations::from_proto((options, field.key("append")), (&[], field.key("remove"))))
        }
        Action::RemoveOnMatch(_) => {
            field.unsupported("remove_on_match", &true);
            None
        }
    }
}

/// A host, which may have a port, with something behind its name.
fn with_suffix(host: &str, suffix: &str) -> String {
    match super::rewrite::split_port(host) {
        Some((name, port)) => format!("{name}{suffix}:{port}"),
        None => format!("{host}{suffix}"),
    }
}
