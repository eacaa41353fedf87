//! For which connections a listener filter does not run: `filter_disabled`.

use std::ops::Range;

use crate::{
    config::Field,
    net::Address,
    proto::listener::{
        ListenerFilterChainMatchPredicate,
        listener_filter_chain_match_predicate::{MatchSet, Rule},
    },
};

/// A checked `ListenerFilterChainMatchPredicate`.
#[derive(Debug)]
pub(super) enum Predicate {
    Any(Vec<Predicate>),
    All(Vec<Predicate>),
    Not(Box<Predicate>),
    Always(bool),
    /// The port that the client connected to.
    DestinationPort(Range<i32>),
}

impl Predicate {
    pub(super) fn from_proto(proto: &ListenerFilterChainMatchPredicate, field: Field<'_>) -> Predicate {
        let ListenerFilterChainMatchPredicate { rule } = proto;
        let all = |set: &MatchSet, name| {
            let MatchSet { rules } = set;
            let set = field.key(name);
            let list = set.key("rules");
            rules.iter().enumerate().map(|(i, rule)| Predicate::from_proto(rule, list.index(i))).collect()
        };
        match rule {
            Some(Rule::OrMatch(set)) => Predicate::Any(all(set, "or_match")),
            Some(Rule::AndMatch(set)) => Predicate::All(all(set, "and_match")),
            Some(Rule::NotMatch(rule)) => Predicate::Not(Box::new(Predicate::from_proto(rule, field.key("not_match")))),
            Some(Rule::AnyMatch(always)) => Predicate::Always(*always),
            Some(Rule::DestinationPortRange(range)) => Predicate::DestinationPort(range.start..range.end),
            None => {
                field.error("a rule is required");
                Predicate::Always(false)
            }
        }
    }

    /// Whether it holds for a connection to this address.
    pub(super) fn holds(&self, local: &Address) -> bool {
        match self {
            Predicate::Any(rules) => rules.iter().any(|rule| rule.holds(local)),
            Predicate::All(rules) => rules.iter().all(|rule| rule.holds(local)),
            Predicate::Not(rule) => !rule.holds(local),
            Predicate::Always(holds) => *holds,
            Predicate::DestinationPort(range) => local.port().is_some_and(|port| range.contains(&i32::from(port))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Report, Source};

    const PORTS: &str = "destination_port_range: { start: 80, end: 90 }";

    #[test]
    fn rules_combine() {
        let holds = |yaml: &str, port: u16| {
            let report = Report::new();
            let proto = config::load(&Source::new("test", yaml), &report).unwrap();
            let predicate = Predicate::from_proto(&proto, Field::root(&report));
            assert_eq!(report.into_problems(), [], "{yaml}");
            predicate.holds(&Address::Ip(([127, 0, 0, 1], port).into()))
        };
        assert!(holds("any_match: true", 1));
        assert_eq!([79, 80, 89, 90].map(|port| holds(PORTS, port)), [false, true, true, false]);
        assert!(holds(&format!("not_match: {{ {PORTS} }}"), 1));
        assert!(holds(&format!("or_match: {{ rules: [ {{ any_match: true }}, {{ {PORTS} }} ] }}"), 1));
        assert!(!holds(&format!("and_match: {{ rules: [ {{ any_match: true }}, {{ {PORTS} }} ] }}"), 1));
    }
}
