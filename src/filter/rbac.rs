//! Role-based access control: `envoy.config.rbac.v3.RBAC`, for the network filter and the HTTP filter of that name.
//!
//! Policies say what is permitted to whom; the engine says whether a connection, or a request on it, may go on and which policy
//! decided. What it looks at is [`Facts`]. Rules of HTTP hold for no connection without a request.

use std::{collections::HashMap, net::IpAddr, ops::Range};

use crate::{
    config::Field,
    matcher::{CidrRange, HeaderMatcher, MetadataMatcher, RequestHead, RequestHeader, StringMatcher},
    proto::{
        self,
        matcher::{PathMatcher, path_matcher},
        rbac::{
            MetadataSource, Permission as PermissionProto, Policy as PolicyProto, Principal as PrincipalProto,
            Rbac as Proto, SourcedMetadata, permission::Rule, principal::Authenticated, principal::Identifier,
            rbac::Action,
        },
    },
    stats::{Counter, Scope},
    stream_info::ConnectionInfo,
};

/// Checked rules.
#[derive(Debug)]
pub struct Rbac {
    action: Action,
    /// By name, in the order of the names: the first that holds decides.
    policies: Vec<Policy>,
}

#[derive(Debug)]
struct Policy {
    name: String,
    /// What is permitted, and to whom: one of each must hold.
    permissions: Vec<Condition>,
    principals: Vec<Condition>,
}

/// What is known when the rules are asked.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'f> {
    /// The connection.
    pub connection: &'f ConnectionInfo,
    /// The client as far as it can be trusted: the connection's own, or one of `x-forwarded-for`.
    pub client: Option<IpAddr>,
    /// The request on it.
    pub request: Option<RequestHead<'f>>,
    /// What filters have found out.
    pub metadata: &'f HashMap<String, proto::Struct>,
}

/// What rules are asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Connections, which have no headers: asking for one is an error.
    Connections,
    /// Requests.
    Requests,
}

/// What the rules say.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision<'r> {
    /// Whether it may go on.
    pub allowed: bool,
    /// The policy that holds, if one does.
    pub policy: Option<&'r str>,
}

impl Decision<'_> {
    /// What logs say of a refusal.
    #[must_use]
    pub fn details(&self) -> String {
        let policy = self.policy.unwrap_or("none").replace(char::is_whitespace, "_");
        format!("rbac_access_denied_matched_policy[{policy}]")
    }
}

/// The rules in force, and others that are only tried out.
#[derive(Debug)]
pub struct Engines {
    rules: Option<Rbac>,
    shadow_rules: Option<Rbac>,
    stats: Stats,
}

/// Counters by Envoy's names, of which two carry prefixes of their own.
#[derive(Debug)]
struct Stats {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
}

impl Engines {
    /// `scope` is `<stat_prefix>.rbac.`; the other prefixes stand before the counters of the rules and of those that are tried out.
    #[must_use]
    pub fn new(rules: Option<Rbac>, shadow_rules: Option<Rbac>, scope: &Scope, prefixes: [&str; 2]) -> Engines {
        let [of_rules, of_shadow] = prefixes;
        let stats = Stats {
            allowed: scope.counter(&stats_name(of_rules, "allowed")),
            denied: scope.counter(&stats_name(of_rules, "denied")),
            shadow_allowed: scope.counter(&stats_name(of_shadow, "shadow_allowed")),
            shadow_denied: scope.counter(&stats_name(of_shadow, "shadow_denied")),
        };
        Engines { rules, shadow_rules, stats }
    }

    /// Asks both and counts; without rules in force, everything is allowed and nothing counted.
    #[must_use]
    pub fn decide(&self, facts: Facts<'_>) -> Decision<'_> {
        let count = |decision: &Decision<'_>, allowed: &Counter, denied: &Counter| {
            if decision.allowed { allowed.inc() } else { denied.inc() }
        };
        if let Some(shadow) = &self.shadow_rules {
            count(&shadow.decide(facts), &self.stats.shadow_allowed, &self.stats.shadow_denied);
        }
        let Some(rules) = &self.rules else { return Decision { allowed: true, policy: None } };
        let decision = rules.decide(facts);
        count(&decision, &self.stats.allowed, &self.stats.denied);
        decision
    }
}

/// `prefix.name`, whether or not the prefix ends with a dot.
fn stats_name(prefix: &str, name: &str) -> String {
    match prefix.trim_end_matches('.') {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    }
}

impl Rbac {
    /// Reports all that is wrong, each at its place.
    #[must_use]
    pub fn from_proto(proto: &Proto, field: Field<'_>, subject: Subject) -> Option<Rbac> {
        let Proto { action, policies, audit_logging_options } = proto;
        field.ignored("audit_logging_options", audit_logging_options, "there are no audit loggers");
        let mut sorted: Vec<_> = policies.iter().collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        let map = field.key("policies");
        let policies: Vec<_> = sorted
            .into_iter()
            .map(|(name, policy)| Policy::from_proto(name, policy, map.entry(name), subject))
            .collect();
        Some(Rbac {
            action: Action::try_from(*action).unwrap_or(Action::Allow),
            policies: policies.into_iter().collect::<Option<_>>()?,
        })
    }

    /// What is to become of a connection or a request.
    #[must_use]
    pub fn decide(&self, facts: Facts<'_>) -> Decision<'_> {
        let policy = self.policies.iter().find(|policy| policy.holds(facts));
        let allowed = match self.action {
            Action::Allow => policy.is_some(),
            Action::Deny => policy.is_none(),
            Action::Log => true,
        };
        Decision { allowed, policy: policy.map(|policy| policy.name.as_str()) }
    }
}

impl Policy {
    fn from_proto(name: &str, proto: &PolicyProto, field: Field<'_>, subject: Subject) -> Option<Policy> {
        let PolicyProto { permissions, principals, condition, checked_condition, cel_config } = proto;
        field.unsupported("condition", condition);
        field.unsupported("checked_condition", checked_condition);
        field.unsupported("cel_config", cel_config);
        let permissions = all(permissions, field.key("permissions"), subject, Condition::of_permission);
        let principals = all(principals, field.key("principals"), subject, Condition::of_principal);
        Some(Policy { name: name.to_owned(), permissions: permissions?, principals: principals? })
    }

    fn holds(&self, facts: Facts<'_>) -> bool {
        let any = |conditions: &[Condition]| conditions.iter().any(|condition| condition.holds(facts));
        any(&self.permissions) && any(&self.principals)
    }
}

/// Converts every element of a list.
fn all<P>(
    protos: &[P],
    list: Field<'_>,
    subject: Subject,
    convert: fn(&P, Field<'_>, Subject) -> Option<Condition>,
) -> Option<Vec<Condition>> {
    let protos = protos.iter().enumerate();
    let converted: Vec<_> = protos.map(|(index, proto)| convert(proto, list.index(index), subject)).collect();
    converted.into_iter().collect()
}

/// A permission or a principal.
#[derive(Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Always,
    Header(HeaderMatcher),
    /// Of the path without its query.
    Path {
        path: RequestHeader,
        matcher: StringMatcher,
    },
    Metadata(MetadataMatcher),
    DestinationIp(CidrRange),
    DestinationPort(Range<u32>),
    ServerName(StringMatcher),
    /// The connection's client: a PROXY header's, if there is one.
    SourceIp(CidrRange),
    DirectRemoteIp(CidrRange),
    RemoteIp(CidrRange),
    /// By TLS, as Envoy calls it also without a certificate of the client; with a name, by any alternative name that is a URI or of DNS, or by the subject.
    Authenticated(Option<StringMatcher>),
}

impl Condition {
    fn of_permission(proto: &PermissionProto, field: Field<'_>, subject: Subject) -> Option<Condition> {
        let PermissionProto { rule } = proto;
        match rule.as_ref()? {
            Rule::AndRules(set) => {
                let field = field.key("and_rules");
                all(&set.rules, field.key("rules"), subject, Condition::of_permission).map(Condition::All)
            }
            Rule::OrRules(set) => {
                let field = field.key("or_rules");
                all(&set.rules, field.key("rules"), subject, Condition::of_permission).map(Condition::Any)
            }
            Rule::NotRule(rule) => {
                Condition::of_permission(rule, field.key("not_rule"), subject).map(Box::new).map(Condition::Not)
            }
            Rule::Any(_) => Some(Condition::Always),
            Rule::Header(proto) => header(proto, field.key("header"), subject),
            Rule::UrlPath(proto) => path(proto, field.key("url_path")),
            Rule::DestinationIp(range) => {
                CidrRange::from_proto(range, field.key("destination_ip")).map(Condition::DestinationIp)
            }
            Rule::DestinationPort(port) => Some(Condition::DestinationPort(*port..port.saturating_add(1))),
            Rule::DestinationPortRange(range) => {
                let proto::type_v3::Int32Range { start, end } = range;
                let valid = 0..=65536;
                if !valid.contains(start) || !valid.contains(end) || start >= end {
                    field.key("destination_port_range").error("must be a range of ports, its end above its start");
                }
                Some(Condition::DestinationPort(u32::try_from(*start).ok()?..u32::try_from(*end).ok()?))
            }
            Rule::Metadata(metadata) => {
                MetadataMatcher::from_proto(metadata, field.key("metadata")).map(Condition::Metadata)
            }
            Rule::SourcedMetadata(metadata) => sourced_metadata(metadata, field.key("sourced_metadata")),
            Rule::RequestedServerName(name) => {
                StringMatcher::from_proto(name, field.key("requested_server_name")).map(Condition::ServerName)
            }
            Rule::Matcher(_) => unsupported("matcher", field),
            Rule::UriTemplate(_) => unsupported("uri_template", field),
        }
    }

    fn of_principal(proto: &PrincipalProto, field: Field<'_>, subject: Subject) -> Option<Condition> {
        let PrincipalProto { identifier } = proto;
        match identifier.as_ref()? {
            Identifier::AndIds(set) => {
                let field = field.key("and_ids");
                all(&set.ids, field.key("ids"), subject, Condition::of_principal).map(Condition::All)
            }
            Identifier::OrIds(set) => {
                let field = field.key("or_ids");
                all(&set.ids, field.key("ids"), subject, Condition::of_principal).map(Condition::Any)
            }
            Identifier::NotId(id) => {
                Condition::of_principal(id, field.key("not_id"), subject).map(Box::new).map(Condition::Not)
            }
            Identifier::Any(_) => Some(Condition::Always),
            Identifier::Authenticated(Authenticated { principal_name }) => match principal_name {
                Some(name) => StringMatcher::from_proto(name, field.key("authenticated").key("principal_name"))
                    .map(|name| Condition::Authenticated(Some(name))),
                None => Some(Condition::Authenticated(None)),
            },
            Identifier::SourceIp(range) => {
                CidrRange::from_proto(range, field.key("source_ip")).map(Condition::SourceIp)
            }
            Identifier::DirectRemoteIp(range) => {
                CidrRange::from_proto(range, field.key("direct_remote_ip")).map(Condition::DirectRemoteIp)
            }
            Identifier::RemoteIp(range) => {
                CidrRange::from_proto(range, field.key("remote_ip")).map(Condition::RemoteIp)
            }
            Identifier::Header(proto) => header(proto, field.key("header"), subject),
            Identifier::UrlPath(proto) => path(proto, field.key("url_path")),
            Identifier::Metadata(metadata) => {
                MetadataMatcher::from_proto(metadata, field.key("metadata")).map(Condition::Metadata)
            }
            Identifier::SourcedMetadata(metadata) => sourced_metadata(metadata, field.key("sourced_metadata")),
            Identifier::FilterState(_) => unsupported("filter_state", field),
            Identifier::Custom(_) => unsupported("custom", field),
        }
    }

    fn holds(&self, facts: Facts<'_>) -> bool {
        let Facts { connection, client, request, metadata } = facts;
        match self {
            Condition::All(conditions) => conditions.iter().all(|condition| condition.holds(facts)),
            Condition::Any(conditions) => conditions.iter().any(|condition| condition.holds(facts)),
            Condition::Not(condition) => !condition.holds(facts),
            Condition::Always => true,
            Condition::Header(header) => request.is_some_and(|request| header.matches(request)),
            Condition::Path { path, matcher } => request.is_some_and(|request| {
                let path = path.first(request).unwrap_or_default();
                let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
                matcher.matches(&path[..end])
            }),
            Condition::Metadata(matcher) => matcher.matches(metadata),
            Condition::DestinationIp(range) => connection.local.ip().is_some_and(|ip| range.contains(ip)),
            Condition::DestinationPort(ports) => {
                connection.local.port().is_some_and(|port| ports.contains(&port.into()))
            }
            Condition::ServerName(matcher) => {
                matcher.matches(connection.server_name.as_deref().unwrap_or_default().as_bytes())
            }
            Condition::SourceIp(range) => connection.remote.ip().is_some_and(|ip| range.contains(ip)),
            Condition::DirectRemoteIp(range) => connection.direct_remote.ip().is_some_and(|ip| range.contains(ip)),
            Condition::RemoteIp(range) => client.is_some_and(|ip| range.contains(ip)),
            Condition::Authenticated(name) => is_authenticated(connection, name.as_ref()),
        }
    }
}

fn is_authenticated(connection: &ConnectionInfo, name: Option<&StringMatcher>) -> bool {
    let Some(tls) = &connection.tls else { return false };
    let Some(name) = name else { return true };
    let Some(peer) = &tls.peer else { return name.matches(b"") };
    let mut names = peer.uri_sans.iter().chain(&peer.dns_sans).chain([&peer.subject]);
    names.any(|value| name.matches(value.as_bytes()))
}

fn header(proto: &proto::route::HeaderMatcher, field: Field<'_>, subject: Subject) -> Option<Condition> {
    if subject == Subject::Connections {
        field.error("a connection has no headers: this is for the HTTP filter");
    }
    HeaderMatcher::from_proto(proto, field).map(Condition::Header)
}

fn path(proto: &PathMatcher, field: Field<'_>) -> Option<Condition> {
    let PathMatcher { rule } = proto;
    let Some(path_matcher::Rule::Path(path)) = rule else { return None };
    let matcher = StringMatcher::from_proto(path, field.key("path"))?;
    Some(Condition::Path { path: RequestHeader::new(":path")?, matcher })
}

fn sourced_metadata(proto: &SourcedMetadata, field: Field<'_>) -> Option<Condition> {
    let SourcedMetadata { metadata_matcher, metadata_source } = proto;
    if MetadataSource::try_from(*metadata_source) == Ok(MetadataSource::Route) {
        field.unsupported("metadata_source", metadata_source);
    }
    let metadata = field.required("metadata_matcher", metadata_matcher)?;
    MetadataMatcher::from_proto(metadata, field.key("metadata_matcher")).map(Condition::Metadata)
}

fn unsupported(name: &'static str, field: Field<'_>) -> Option<Condition> {
    field.unsupported(name, &true);
    None
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::{
        config::{Report, Source, load},
        stream_info::StreamInfo,
    };

    fn rules(yaml: &str, subject: Subject) -> (Option<Rbac>, Vec<String>) {
        let report = Report::new();
        let proto = load(&Source::new("x.yaml", yaml), &report).unwrap();
        let rules = Rbac::from_proto(&proto, Field::root(&report), subject);
        (rules, report.into_problems().iter().map(ToString::to_string).collect())
    }

    fn decide(rules: &Rbac, path: &str) -> (bool, Option<String>) {
        let info = StreamInfo::sample();
        let request = Request::builder().uri(path).header("x-role", "admin").body(()).unwrap();
        let facts = Facts {
            connection: &info.connection,
            client: info.client_ip(),
            request: Some((&request).into()),
            metadata: &info.dynamic_metadata,
        };
        let decision = rules.decide(facts);
        (decision.allowed, decision.policy.map(str::to_owned))
    }

    #[test]
    fn the_first_policy_by_name_decides() {
        let yaml = "
action: ACTION
policies:
  b: {permissions: [{url_path: {path: {prefix: /}}}], principals: [{header: {name: x-role, string_match: {exact: admin}}}]}
  a: {permissions: [{url_path: {path: {exact: /a}}}], principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]}
";
        for (action, allowed) in [("ALLOW", true), ("DENY", false), ("LOG", true)] {
            let (rules, problems) = rules(&yaml.replace("ACTION", action), Subject::Requests);
            assert_eq!(problems, Vec::<String>::new());
            let rules = rules.unwrap();
            assert_eq!(decide(&rules, "/a?b"), (allowed, Some("a".to_owned())));
            assert_eq!(decide(&rules, "/b"), (allowed, Some("b".to_owned())));
        }
    }

    #[test]
    fn what_no_policy_covers_is_not_allowed_and_not_denied() {
        for (action, allowed) in [("ALLOW", false), ("DENY", true), ("LOG", true)] {
            let yaml = format!(
                "{{action: {action}, policies: {{a: {{permissions: [{{any: true}}], principals: [{{authenticated: {{}}}}]}}}}}}"
            );
            assert_eq!(decide(&rules(&yaml, Subject::Requests).0.unwrap(), "/"), (allowed, None), "{action}");
        }
        let refusal = Decision { allowed: false, policy: Some("my policy") };
        assert_eq!(refusal.details(), "rbac_access_denied_matched_policy[my_policy]");
    }

    #[test]
    fn connections_have_no_headers() {
        let yaml = "{policies: {a: {permissions: [{not_rule: {header: {name: x}}}], principals: [{any: true}]}}}";
        assert_eq!(
            rules(yaml, Subject::Connections).1,
            [
                "policies[\"a\"].permissions[0].not_rule.header: a connection has no headers: this is for the HTTP filter"
            ]
        );
    }
}
