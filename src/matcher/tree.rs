//! The unified matcher (`xds.type.matcher.v3.Matcher`): a tree of predicates and maps over the inputs of a request or a connection,
//! with actions at its leaves.
//!
//! What inputs there are is a matter of who asks ([`Input`]), and so is what an action is. The tree is compiled once; asking it
//! allocates only to join several lines of a header.

mod maps;

use std::{borrow::Cow, collections::HashMap, fmt, net::IpAddr};

use prost::Name;

use super::{CidrRange, predicate::Predicate};
use crate::{
    config::Field,
    proto::{
        xds_core::TypedExtensionConfig,
        xds_custom_matchers::{IpMatcher, ServerNameMatcher, ip_matcher, server_name_matcher},
        xds_matcher::{
            self,
            matcher::{self, matcher_tree::TreeType},
        },
    },
    runtime::Runtime,
};
use maps::{AddressMap, DomainMap};

/// A kind of thing that trees look at, by its `from_proto`, and how its values are read.
pub trait Input: fmt::Debug + Sized {
    /// What values are read from.
    type Data<'d>;

    /// Converts the `input` of a matcher; None when an error has been reported.
    fn from_proto(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<Self>;

    /// The value; None if there is none.
    fn read<'d>(&'d self, data: &'d Self::Data<'_>) -> Option<Cow<'d, [u8]>>;

    /// The runtime values, which change shares.
    fn runtime<'d>(data: &'d Self::Data<'_>) -> &'d Runtime;
}

/// Whether `keep_matching` may be said where a tree is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeepMatching {
    /// A match that says so does not count: the search goes on.
    Allowed,
    /// Saying so is an error.
    Refused,
}

/// A compiled tree. `A` is what an action is converted to.
#[derive(Debug)]
pub struct MatchTree<I, A> {
    root: Node<I>,
    actions: Vec<A>,
}

#[derive(Debug)]
struct Node<I> {
    test: Option<Test<I>>,
    on_no_match: Option<OnMatch<I>>,
}

#[derive(Debug)]
enum Test<I> {
    /// The first predicate that holds, and whose match leads somewhere.
    List(Vec<(Predicate<I>, OnMatch<I>)>),
    Exact(I, HashMap<Box<[u8]>, OnMatch<I>>),
    /// By length, the longest first.
    Prefix(I, Vec<(usize, HashMap<Box<[u8]>, OnMatch<I>>)>),
    Address(I, AddressMap<OnMatch<I>>),
    Domain(I, DomainMap<OnMatch<I>>),
}

#[derive(Debug)]
struct OnMatch<I> {
    next: Next<I>,
    keep_matching: bool,
}

#[derive(Debug)]
enum Next<I> {
    Tree(Box<Node<I>>),
    Action(usize),
}

/// What collects the actions of a tree.
struct Actions<'c, A> {
    converted: Vec<A>,
    convert: &'c mut dyn FnMut(&TypedExtensionConfig, Field<'_>) -> Option<A>,
    keep_matching: KeepMatching,
}

impl<I: Input, A> MatchTree<I, A> {
    /// Compiles a tree, and its actions by `convert`.
    pub fn from_proto(
        proto: &xds_matcher::Matcher,
        field: Field<'_>,
        keep_matching: KeepMatching,
        convert: &mut dyn FnMut(&TypedExtensionConfig, Field<'_>) -> Option<A>,
    ) -> Option<MatchTree<I, A>> {
        let mut actions = Actions { converted: Vec::new(), convert, keep_matching };
        let root = Node::from_proto(proto, field, &mut actions)?;
        Some(MatchTree { root, actions: actions.converted })
    }

    /// The action for what is read from `data`.
    #[must_use]
    pub fn find(&self, data: &I::Data<'_>) -> Option<&A> {
        self.position(data).map(|position| self.action(position))
    }

    /// The same by number, for who keeps the answer longer than a reference lives.
    #[must_use]
    pub fn position(&self, data: &I::Data<'_>) -> Option<usize> {
        self.root.find(data)
    }

    /// The action of a number that [`MatchTree::position`] has told.
    #[must_use]
    pub fn action(&self, position: usize) -> &A {
        &self.actions[position]
    }
}

impl<I: Input> Node<I> {
    fn from_proto<A>(proto: &xds_matcher::Matcher, field: Field<'_>, actions: &mut Actions<'_, A>) -> Option<Node<I>> {
        use matcher::MatcherType;

        let xds_matcher::Matcher { matcher_type, on_no_match } = proto;
        let on_no_match = match on_no_match {
            Some(proto) => Some(OnMatch::from_proto(proto, field.key("on_no_match"), actions)?),
            None => None,
        };
        let test = match matcher_type {
            None => None,
            Some(MatcherType::MatcherList(list)) => Some(Test::of_list(list, field.key("matcher_list"), actions)?),
            Some(MatcherType::MatcherTree(tree)) => Some(Test::of_tree(tree, field.key("matcher_tree"), actions)?),
        };
        Some(Node { test, on_no_match })
    }

    fn find(&self, data: &I::Data<'_>) -> Option<usize> {
        let found = self.test.as_ref().and_then(|test| test.find(data));
        found.or_else(|| self.on_no_match.as_ref()?.find(data))
    }
}

impl<I: Input> Test<I> {
    fn of_list<A>(proto: &matcher::MatcherList, field: Field<'_>, actions: &mut Actions<'_, A>) -> Option<Test<I>> {
        let matcher::MatcherList { matchers } = proto;
        let list = field.key("matchers");
        let mut converted = Vec::with_capacity(matchers.len());
        for (i, matcher::matcher_list::FieldMatcher { predicate, on_match }) in matchers.iter().enumerate() {
            let field = list.index(i);
            let predicate = field.required("predicate", predicate).map(|proto| (proto, field.key("predicate")));
            let on_match = field.required("on_match", on_match).map(|proto| (proto, field.key("on_match")));
            let predicate = predicate.and_then(|(proto, field)| Predicate::from_proto(proto, field));
            let on_match = on_match.and_then(|(proto, field)| OnMatch::from_proto(proto, field, actions));
            converted.push(predicate.zip(on_match));
        }
        converted.into_iter().collect::<Option<_>>().map(Test::List)
    }

    fn of_tree<A>(proto: &matcher::MatcherTree, field: Field<'_>, actions: &mut Actions<'_, A>) -> Option<Test<I>> {
        let matcher::MatcherTree { input, tree_type } = proto;
        let input = field.required("input", input).and_then(|input| I::from_proto(input, field.key("input")));
        match tree_type.as_ref()? {
            TreeType::ExactMatchMap(map) => {
                let map = entries(map, field.key("exact_match_map"), actions)?;
                Some(Test::Exact(input?, map.into_iter().collect()))
            }
            TreeType::PrefixMatchMap(map) => {
                let mut by_length: Vec<(usize, HashMap<Box<[u8]>, OnMatch<I>>)> = Vec::new();
                for (prefix, on_match) in entries(map, field.key("prefix_match_map"), actions)? {
                    let at = by_length.partition_point(|(length, _)| *length > prefix.len());
                    if by_length.get(at).is_none_or(|(length, _)| *length != prefix.len()) {
                        by_length.insert(at, (prefix.len(), HashMap::new()));
                    }
                    by_length[at].1.insert(prefix, on_match);
                }
                Some(Test::Prefix(input?, by_length))
            }
            TreeType::CustomMatch(custom) => Test::of_custom(input, custom, field.key("custom_match"), actions),
        }
    }

    fn of_custom<A>(
        input: Option<I>,
        proto: &TypedExtensionConfig,
        field: Field<'_>,
        actions: &mut Actions<'_, A>,
    ) -> Option<Test<I>> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found == IpMatcher::full_name() {
            let map = address_map(&field.unpack(any)?, field, actions)?;
            return Some(Test::Address(input?, map));
        }
        if found == ServerNameMatcher::full_name() {
            let map = domain_map(&field.unpack(any)?, field, actions)?;
            return Some(Test::Domain(input?, map));
        }
        field.error(format!("{found}: valid in Envoy, not implemented by Portreeve yet"));
        None
    }

    fn find(&self, data: &I::Data<'_>) -> Option<usize> {
        match self {
            Test::List(list) => {
                list.iter().filter(|(predicate, _)| predicate.holds(data)).find_map(|(_, on_match)| on_match.find(data))
            }
            Test::Exact(input, map) => map.get(input.read(data)?.as_ref())?.find(data),
            Test::Prefix(input, by_length) => {
                let value = input.read(data)?;
                let prefixes = by_length.iter().filter_map(|(length, map)| map.get(value.get(..*length)?));
                prefixes.into_iter().find_map(|on_match| on_match.find(data))
            }
            Test::Address(input, map) => {
                let address: IpAddr = str::from_utf8(&input.read(data)?).ok()?.parse().ok()?;
                map.find(address).find_map(|on_match| on_match.find(data))
            }
            Test::Domain(input, map) => map.find(&input.read(data)?).find_map(|on_match| on_match.find(data)),
        }
    }
}

impl<I: Input> OnMatch<I> {
    fn from_proto<A>(proto: &matcher::OnMatch, field: Field<'_>, actions: &mut Actions<'_, A>) -> Option<OnMatch<I>> {
        let matcher::OnMatch { on_match, keep_matching } = proto;
        if *keep_matching && actions.keep_matching == KeepMatching::Refused {
            field.key("keep_matching").error("keep_matching is not supported in this context");
        }
        let next = match on_match.as_ref()? {
            matcher::on_match::OnMatch::Matcher(tree) => {
                Next::Tree(Box::new(Node::from_proto(tree, field.key("matcher"), actions)?))
            }
            matcher::on_match::OnMatch::Action(action) => {
                let action = (actions.convert)(action, field.key("action"))?;
                actions.converted.push(action);
                Next::Action(actions.converted.len() - 1)
            }
        };
        Some(OnMatch { next, keep_matching: *keep_matching })
    }

    fn find(&self, data: &I::Data<'_>) -> Option<usize> {
        let found = match &self.next {
            Next::Tree(tree) => tree.find(data),
            Next::Action(action) => Some(*action),
        };
        found.filter(|_| !self.keep_matching)
    }
}

/// The entries of a map, in the order of their keys.
fn entries<I: Input, A>(
    proto: &matcher::matcher_tree::MatchMap,
    field: Field<'_>,
    actions: &mut Actions<'_, A>,
) -> Option<Vec<(Box<[u8]>, OnMatch<I>)>> {
    let matcher::matcher_tree::MatchMap { map } = proto;
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort_unstable();
    let field = field.key("map");
    let converted: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let on_match = OnMatch::from_proto(&map[key], field.entry(key), actions)?;
            Some((key.as_bytes().into(), on_match))
        })
        .collect();
    converted.into_iter().collect()
}

fn address_map<I: Input, A>(
    proto: &IpMatcher,
    field: Field<'_>,
    actions: &mut Actions<'_, A>,
) -> Option<AddressMap<OnMatch<I>>> {
    let IpMatcher { range_matchers } = proto;
    let list = field.key("range_matchers");
    let mut map = AddressMap::default();
    for (i, ip_matcher::IpRangeMatcher { ranges, on_match, exclusive }) in range_matchers.iter().enumerate() {
        let field = list.index(i);
        let range_list = field.key("ranges");
        let ranges = ranges.iter().enumerate().filter_map(|(i, range)| CidrRange::from_xds(range, range_list.index(i)));
        let on_match = field.required("on_match", on_match)?;
        map.insert(ranges, *exclusive, OnMatch::from_proto(on_match, field.key("on_match"), actions)?);
    }
    Some(map)
}

fn domain_map<I: Input, A>(
    proto: &ServerNameMatcher,
    field: Field<'_>,
    actions: &mut Actions<'_, A>,
) -> Option<DomainMap<OnMatch<I>>> {
    let ServerNameMatcher { domain_matchers } = proto;
    let list = field.key("domain_matchers");
    let mut map = DomainMap::default();
    for (i, server_name_matcher::DomainMatcher { domains, on_match }) in domain_matchers.iter().enumerate() {
        let field = list.index(i);
        let on_match = field.required("on_match", on_match)?;
        let on_match = OnMatch::from_proto(on_match, field.key("on_match"), actions)?;
        map.insert(domains, on_match, field.key("domains"));
    }
    Some(map)
}

#[cfg(test)]
mod tests;
