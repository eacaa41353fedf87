//! `envoy.filters.http.rbac`: which requests may be made, by who makes them and how, as policies or a matcher tree say.
//!
//! Rules in force decide; shadow rules are only counted. The rules of the most specific route settings stand in for all of the filter's.

use std::{borrow::Cow, sync::Arc};

use http::StatusCode;
use prost::Name;

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
        rbac::{Decision, Facts, Rbac, Subject},
    },
    http::{Request, local_reply::LocalReply},
    matcher::{Input, KeepMatching, MatchTree, RequestHead, RequestHeader},
    proto::{
        Value, http_rbac,
        matcher::HttpRequestHeaderMatchInput,
        rbac::{Action as ActionProto, Rbac as RulesProto, rbac::Action},
        value::Kind,
        xds_core::TypedExtensionConfig,
        xds_matcher::Matcher,
    },
    route::FilterSettingsFactory,
    runtime::Runtime,
    stats::{Counter, Scope},
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: NAME,
    type_name: "envoy.extensions.filters.http.rbac.v3.RBAC",
    from_proto: |any, field, cx| {
        let proto = field.unpack(any)?;
        let engines = Engines::from_proto(&proto, field)?;
        Some(Arc::new(Filter { stats: Stats::new(&proto, cx), engines: Arc::new(engines) }))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    from_proto: |any, field, _| {
        let http_rbac::RbacPerRoute { rbac } = field.unpack(any)?;
        Some(Arc::new(Engines::from_proto(&rbac.unwrap_or_default(), field.key("rbac"))?))
    },
};

/// Also where the metadata tells what was decided.
const NAME: &str = "envoy.filters.http.rbac";

#[derive(Debug)]
struct Filter {
    engines: Arc<Engines>,
    stats: Stats,
}

/// The rules in force, and those that are tried out; everything is allowed where there are none.
#[derive(Debug)]
struct Engines {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
    /// Before the names of what the metadata tells of shadow rules.
    shadow_prefix: String,
}

#[derive(Debug)]
enum Engine {
    Policies(Rbac),
    /// What a tree does not decide is denied.
    Tree(MatchTree<RequestInput, TreeAction>),
}

#[derive(Debug)]
struct TreeAction {
    policy: String,
    allows: bool,
}

/// Under `http.<stat_prefix>.rbac.`, with prefixes of the rules' own.
#[derive(Debug)]
struct Stats {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
}

impl Stats {
    fn new(proto: &http_rbac::Rbac, cx: &FactoryContext<'_>) -> Stats {
        let below = |prefix: &str| {
            let scope: Scope = cx.filter_stats("rbac");
            if prefix.is_empty() { scope } else { scope.scope(prefix.trim_end_matches('.')) }
        };
        let (rules, shadow) = (below(&proto.rules_stat_prefix), below(&proto.shadow_rules_stat_prefix));
        Stats {
            allowed: rules.counter("allowed"),
            denied: rules.counter("denied"),
            shadow_allowed: shadow.counter("shadow_allowed"),
            shadow_denied: shadow.counter("shadow_denied"),
        }
    }
}

impl Engines {
    fn from_proto(proto: &http_rbac::Rbac, field: Field<'_>) -> Option<Engines> {
        let http_rbac::Rbac {
            rules,
            // `Stats` has it.
            rules_stat_prefix: _rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = proto;
        field.ignored("track_per_rule_stats", track_per_rule_stats, "policies are not counted one by one");
        let enforced = Engine::choose((rules, "rules"), (matcher, "matcher"), field);
        let shadow = Engine::choose((shadow_rules, "shadow_rules"), (shadow_matcher, "shadow_matcher"), field);
        Some(Engines { enforced: enforced?, shadow: shadow?, shadow_prefix: shadow_rules_stat_prefix.clone() })
    }
}

impl Engine {
    /// A matcher goes before rules. `Some(None)` where there is neither.
    fn choose(
        (rules, rules_key): (&Option<RulesProto>, &str),
        (matcher, matcher_key): (&Option<Matcher>, &str),
        field: Field<'_>,
    ) -> Option<Option<Engine>> {
        if let Some(matcher) = matcher {
            let field = field.key(matcher_key);
            let tree = MatchTree::from_proto(matcher, field, KeepMatching::Refused, &mut TreeAction::from_proto)?;
            return Some(Some(Engine::Tree(tree)));
        }
        match rules {
            Some(rules) => {
                Rbac::from_proto(rules, field.key(rules_key), Subject::Requests).map(Engine::Policies).map(Some)
            }
            None => Some(None),
        }
    }

    fn decide<'e>(&'e self, facts: Facts<'_>, inputs: &RequestInputs<'_>) -> Decision<'e> {
        match self {
            Engine::Policies(rules) => rules.decide(facts),
            Engine::Tree(tree) => tree.find(inputs).map_or(Decision { allowed: false, policy: None }, |action| {
                Decision { allowed: action.allows, policy: Some(&action.policy) }
            }),
        }
    }
}

impl TreeAction {
    fn from_proto(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<TreeAction> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let ActionProto { name, action } = field.key("typed_config").unpack(any)?;
        Some(TreeAction { policy: name, allows: Action::try_from(action) != Ok(Action::Deny) })
    }
}

/// What trees look at.
#[derive(Debug)]
struct RequestInput(RequestHeader);

/// What the inputs are read from.
struct RequestInputs<'r> {
    head: RequestHead<'r>,
    runtime: &'r Runtime,
}

impl Input for RequestInput {
    type Data<'r> = RequestInputs<'r>;

    fn from_proto(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<RequestInput> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name != HttpRequestHeaderMatchInput::full_name() {
            field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve here yet"));
            return None;
        }
        let HttpRequestHeaderMatchInput { header_name } = field.unpack(any)?;
        RequestHeader::of_input(&header_name, field).map(RequestInput)
    }

    fn read<'d>(&'d self, data: &'d RequestInputs<'_>) -> Option<Cow<'d, [u8]>> {
        self.0.read(data.head)
    }

    fn runtime<'d>(data: &'d RequestInputs<'_>) -> &'d Runtime {
        data.runtime
    }
}

impl HttpFilterConfig for Filter {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let engines = place.settings().unwrap_or_else(|| Arc::clone(&self.engines));
        Box::new(Gate { engines, filter: self })
    }
}

/// The filter on one stream.
struct Gate {
    filter: Arc<Filter>,
    engines: Arc<Engines>,
}

impl HttpFilter for Gate {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        ready(self.decide(request, stream))
    }
}

impl Gate {
    fn decide(&self, request: &Request, stream: &mut Stream) -> Decoded {
        let runtime = stream.worker.runtime();
        let facts = Facts {
            connection: &stream.info.connection,
            client: stream.info.client_ip(),
            request: Some(request.into()),
            metadata: &stream.info.dynamic_metadata,
        };
        let inputs = RequestInputs { head: request.into(), runtime: &runtime };
        let (engines, stats) = (&self.engines, &self.filter.stats);
        let shadow = engines.shadow.as_ref().map(|engine| engine.decide(facts, &inputs));
        let enforced = engines.enforced.as_ref().map(|engine| engine.decide(facts, &inputs));
        if let Some(decision) = &shadow {
            let count = if decision.allowed { &stats.shadow_allowed } else { &stats.shadow_denied };
            count.inc();
            tell(stream, &format!("{}shadow", engines.shadow_prefix), decision);
        }
        let Some(decision) = enforced else { return Decoded::Continue };
        tell(stream, "enforced", &decision);
        if decision.allowed {
            stats.allowed.inc();
            return Decoded::Continue;
        }
        stats.denied.inc();
        let reply = LocalReply::new(StatusCode::FORBIDDEN, decision.details());
        Decoded::Reply(LocalReply { body: "RBAC: access denied".into(), ..reply })
    }
}

/// Writes a decision into the metadata.
fn tell(stream: &mut Stream, whose: &str, decision: &Decision<'_>) {
    let metadata = stream.info.dynamic_metadata.entry(NAME.to_owned()).or_default();
    let mut say = |what: &str, text: &str| {
        let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
        metadata.fields.insert(format!("{whose}_{what}"), value);
    };
    if let Some(policy) = decision.policy {
        say("effective_policy_id", policy);
    }
    say("engine_result", if decision.allowed { "allowed" } else { "denied" });
}
