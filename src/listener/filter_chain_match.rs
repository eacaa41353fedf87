//! Which filter chain serves a connection: `envoy.config.listener.v3.FilterChainMatch`.
//!
//! The criteria are asked one after the other, in the order of [`Criterion`]. At each, the chains that fit the connection best
//! go on to the next and all others are out: there is no way back to a chain that was left behind, as in Envoy. The chains form
//! a tree with a level for each criterion, so that a thousand chains for a thousand server names cost one look-up.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    config::Field,
    matcher::CidrRange,
    net::Address,
    proto::listener::{self, filter_chain_match::ConnectionSourceType},
};

/// What is asked, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Criterion {
    DestinationPort,
    DestinationIp,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    DirectSourceIp,
    SourceType,
    SourceIp,
    SourcePort,
}

/// Each criterion at its own position.
const CRITERIA: [Criterion; 9] = [
    Criterion::DestinationPort,
    Criterion::DestinationIp,
    Criterion::ServerName,
    Criterion::TransportProtocol,
    Criterion::ApplicationProtocol,
    Criterion::DirectSourceIp,
    Criterion::SourceType,
    Criterion::SourceIp,
    Criterion::SourcePort,
];

/// A value of a criterion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Any,
    Port(u16),
    Range(CidrRange),
    /// A server name, or `.example.com` for `*.example.com`.
    Name(String),
    Protocol(Vec<u8>),
    /// The source is this host.
    Local,
    External,
}

/// What is known of a connection when its filter chain is chosen.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) local: &'a Address,
    pub(super) remote: &'a Address,
    /// The peer, whomever it speaks for.
    pub(super) direct_remote: &'a Address,
    /// In lower case.
    pub(super) server_name: Option<&'a str>,
    /// `tls` or `raw_buffer`; empty if nobody has looked.
    pub(super) transport_protocol: &'a str,
    pub(super) application_protocols: &'a [Vec<u8>],
}

/// The criteria of one chain: the values of each, in the order of [`CRITERIA`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilterChainMatch([Vec<Value>; CRITERIA.len()]);

/// The matches of all chains of a listener, as a tree. A leaf is the position of a chain.
#[derive(Clone, Debug, Default)]
pub(super) struct FilterChainMatcher {
    root: Node,
    /// A choice depends on the server name, or on whether there is TLS.
    pub(super) inspects_tls: bool,
    /// A choice depends on the application protocol.
    pub(super) inspects_protocols: bool,
}

#[derive(Clone, Debug)]
enum Node {
    Branch(HashMap<Value, Node>),
    Chain(usize),
}

impl Default for Node {
    fn default() -> Node {
        Node::Branch(HashMap::new())
    }
}

impl FilterChainMatcher {
    /// Adds a chain under every combination of its values. An error names a chain that has one of them already: the two could
    /// not be told apart.
    pub(super) fn insert(&mut self, chain: &FilterChainMatch, position: usize) -> Result<(), usize> {
        let depends = |criterion: Criterion| chain.0[criterion as usize] != [Value::Any];
        self.inspects_tls |= depends(Criterion::ServerName) || depends(Criterion::TransportProtocol);
        self.inspects_protocols |= depends(Criterion::ApplicationProtocol);
        insert(&mut self.root, &chain.0, position)
    }

    /// The position of the chain for a connection.
    pub(super) fn find(&self, connection: &Candidate<'_>) -> Option<usize> {
        let mut node = &self.root;
        for criterion in CRITERIA {
            let Node::Branch(children) = node else { break };
            node = best(children, criterion, connection).or_else(|| children.get(&Value::Any))?;
        }
        match node {
            Node::Chain(position) => Some(*position),
            Node::Branch(_) => None,
        }
    }
}

fn insert(node: &mut Node, values: &[Vec<Value>], position: usize) -> Result<(), usize> {
    let (Node::Branch(children), Some((first, rest))) = (node, values.split_first()) else { return Ok(()) };
    for value in first {
        if rest.is_empty() {
            match children.insert(value.clone(), Node::Chain(position)) {
                Some(Node::Chain(other)) if other != position => return Err(other),
                _ => {}
            }
        } else {
            insert(children.entry(value.clone()).or_default(), rest, position)?;
        }
    }
    Ok(())
}

/// The most specific child that fits.
fn best<'n>(children: &'n HashMap<Value, Node>, criterion: Criterion, connection: &Candidate<'_>) -> Option<&'n Node> {
    match criterion {
        Criterion::DestinationPort => children.get(&Value::Port(connection.local.port()?)),
        Criterion::DestinationIp => longest_range(children, connection.local.ip()?),
        Criterion::ServerName => by_name(children, connection.server_name?),
        Criterion::TransportProtocol => {
            children.get(&Value::Protocol(connection.transport_protocol.as_bytes().to_vec()))
        }
        Criterion::ApplicationProtocol => {
            let mut offered = connection.application_protocols.iter();
            offered.find_map(|protocol| children.get(&Value::Protocol(protocol.clone())))
        }
        Criterion::DirectSourceIp => longest_range(children, connection.direct_remote.ip()?),
        Criterion::SourceIp => longest_range(children, connection.remote.ip()?),
        Criterion::SourceType => children.get(if connection.is_local() { &Value::Local } else { &Value::External }),
        Criterion::SourcePort => children.get(&Value::Port(connection.remote.port()?)),
    }
}

fn longest_range(children: &HashMap<Value, Node>, address: IpAddr) -> Option<&Node> {
    children
        .iter()
        .filter_map(|(value, node)| match value {
            Value::Range(range) if range.contains(address) => Some((range.length(), node)),
            _ => None,
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, node)| node)
}

/// `www.example.com` itself, then `*.example.com`, then `*.com`.
fn by_name<'n>(children: &'n HashMap<Value, Node>, name: &str) -> Option<&'n Node> {
    let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at..]);
    std::iter::once(name).chain(suffixes).find_map(|name| children.get(&Value::Name(name.to_owned())))
}

impl Candidate<'_> {
    /// Whether the client is on this machine.
    pub(super) fn is_local(&self) -> bool {
        match (self.remote.ip(), self.local.ip()) {
            // As in Envoy, of all loopback addresses only the first.
            (Some(remote), Some(local)) => {
                remote == Ipv4Addr::LOCALHOST || remote == Ipv6Addr::LOCALHOST || remote == local
            }
            _ => true, // a Unix socket
        }
    }
}

impl FilterChainMatch {
    /// Criteria that are not named match anything.
    pub(super) fn from_proto(proto: &listener::FilterChainMatch, field: Field<'_>) -> Option<FilterChainMatch> {
        let listener::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = proto;
        field.unsupported("address_suffix", address_suffix);
        field.unsupported("suffix_len", suffix_len);

        let ports: Vec<u32> = destination_port.iter().map(|port| port.value).collect();
        let source_type = match ConnectionSourceType::try_from(*source_type) {
            Ok(ConnectionSourceType::Any) | Err(_) => Value::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => Value::Local,
            Ok(ConnectionSourceType::External) => Value::External,
        };
        let transport_protocol = match transport_protocol.as_str() {
            "" => Value::Any,
            "tls" | "raw_buffer" => Value::Protocol(transport_protocol.clone().into_bytes()),
            other => {
                let field = field.key("transport_protocol");
                field.warning(format!("no connection is ever {other:?}: there are \"tls\" and \"raw_buffer\""));
                Value::Protocol(other.as_bytes().to_vec())
            }
        };
        let application_protocols =
            application_protocols.iter().map(|protocol| Some(Value::Protocol(protocol.clone().into_bytes())));
        let values = [
            all_or_any(ports.iter().map(|port| port_value(*port, field.key("destination_port")))),
            ranges(prefix_ranges, field.key("prefix_ranges")),
            names(server_names, field.key("server_names")),
            Some(vec![transport_protocol]),
            all_or_any(application_protocols),
            ranges(direct_source_prefix_ranges, field.key("direct_source_prefix_ranges")),
            Some(vec![source_type]),
            ranges(source_prefix_ranges, field.key("source_prefix_ranges")),
            all_or_any(source_ports.iter().map(|port| port_value(*port, field.key("source_ports")))),
        ];
        let values: Option<Vec<Vec<Value>>> = values.into_iter().collect();
        Some(FilterChainMatch(values?.try_into().ok()?))
    }
}

fn all_or_any(values: impl Iterator<Item = Option<Value>>) -> Option<Vec<Value>> {
    let values: Option<Vec<Value>> = values.collect();
    values.map(|values| if values.is_empty() { vec![Value::Any] } else { values })
}

fn port_value(port: u32, field: Field<'_>) -> Option<Value> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    if port.is_none() {
        field.error("must be 1 to 65535");
    }
    port.map(Value::Port)
}

fn ranges(protos: &[crate::proto::core::CidrRange], field: Field<'_>) -> Option<Vec<Value>> {
    let ranges = protos.iter().enumerate().map(|(index, proto)| CidrRange::from_proto(proto, field.index(index)));
    all_or_any(ranges.map(|range| range.map(Value::Range)).collect::<Vec<_>>().into_iter())
}

fn names(names: &[String], field: Field<'_>) -> Option<Vec<Value>> {
    let names = names.iter().enumerate().map(|(index, name)| {
        let suffix = name.strip_prefix('*').filter(|suffix| suffix.starts_with('.') && suffix.len() > 1);
        let value = suffix.unwrap_or(name);
        if value.is_empty() || value.contains('*') {
            field.index(index).error(format!("{name:?} is neither a name nor a wildcard such as *.example.com"));
            return None;
        }
        Some(Value::Name(value.to_ascii_lowercase()))
    });
    all_or_any(names.collect::<Vec<_>>().into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Report, Source};

    fn parse(match_yaml: &str) -> FilterChainMatch {
        let report = Report::new();
        let proto: listener::FilterChainMatch = config::load(&Source::new("test", match_yaml), &report).unwrap();
        let parsed = FilterChainMatch::from_proto(&proto, Field::root(&report));
        assert_eq!(report.into_problems(), [], "{match_yaml}");
        parsed.unwrap()
    }

    fn matcher(chains: &[&str]) -> FilterChainMatcher {
        let mut matcher = FilterChainMatcher::default();
        for (position, chain) in chains.iter().enumerate() {
            matcher.insert(&parse(chain), position).unwrap();
        }
        matcher
    }

    struct Connection {
        local: Address,
        remote: Address,
        server_name: Option<&'static str>,
        transport_protocol: &'static str,
        application_protocols: Vec<Vec<u8>>,
    }

    impl Connection {
        fn from(remote: &str, local: &str) -> Connection {
            Connection {
                local: Address::Ip(local.parse().unwrap()),
                remote: Address::Ip(remote.parse().unwrap()),
                server_name: None,
                transport_protocol: "raw_buffer",
                application_protocols: Vec::new(),
            }
        }

        fn tls(server_name: &'static str, protocols: &[&str]) -> Connection {
            Connection {
                server_name: Some(server_name),
                transport_protocol: "tls",
                application_protocols: protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
                ..Connection::from("192.0.2.1:4000", "10.0.0.1:443")
            }
        }

        fn of(&self, matcher: &FilterChainMatcher) -> Option<usize> {
            matcher.find(&Candidate {
                local: &self.local,
                remote: &self.remote,
                direct_remote: &self.remote,
                server_name: self.server_name,
                transport_protocol: self.transport_protocol,
                application_protocols: &self.application_protocols,
            })
        }
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let matcher = matcher(&[
            "{}",
            "{server_names: ['*.com']}",
            "{server_names: ['*.example.com', example.com]}",
            "{server_names: [WWW.example.com]}",
        ]);
        for (name, expected) in [
            ("www.example.com", 3),
            ("a.example.com", 2),
            ("a.b.example.com", 2),
            ("example.com", 2),
            ("other.com", 1),
            ("com", 0),
            ("example.org", 0),
        ] {
            assert_eq!(Connection::tls(name, &[]).of(&matcher), Some(expected), "{name}");
        }
        assert_eq!(Connection::from("192.0.2.1:1", "10.0.0.1:443").of(&matcher), Some(0), "no name at all");
    }

    #[test]
    fn ranges_ports_and_sources() {
        let matcher = matcher(&[
            "{destination_port: 8443}",
            "{prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}",
            "{prefix_ranges: [{address_prefix: 10.1.0.0, prefix_len: 16}]}",
            "{source_prefix_ranges: [{address_prefix: 192.0.2.0, prefix_len: 24}]}",
            "{source_type: SAME_IP_OR_LOOPBACK}",
            "{source_ports: [7777]}",
        ]);
        for (remote, local, expected) in [
            ("192.0.2.1:1", "10.1.1.1:8443", Some(0)),
            ("192.0.2.1:1", "10.1.1.1:443", Some(2)),
            ("192.0.2.1:1", "10.9.1.1:443", Some(1)),
            ("192.0.2.1:1", "203.0.113.1:443", Some(3)),
            ("127.0.0.1:1", "127.0.0.1:443", Some(4)),
            ("203.0.113.1:1", "203.0.113.1:443", Some(4)),
            ("198.51.100.1:7777", "203.0.113.1:443", Some(5)),
            ("198.51.100.1:1", "203.0.113.1:443", None),
            ("[2001:db8::1]:7777", "[2001:db8::2]:443", Some(5)),
        ] {
            assert_eq!(Connection::from(remote, local).of(&matcher), expected, "{remote} {local}");
        }
    }

    #[test]
    fn protocols_are_asked_in_the_clients_order() {
        let matcher = matcher(&[
            "{transport_protocol: tls, application_protocols: [h2]}",
            "{transport_protocol: tls, application_protocols: [http/1.1, http/1.0]}",
            "{transport_protocol: raw_buffer}",
        ]);
        assert!(matcher.inspects_tls && matcher.inspects_protocols);
        for (protocols, expected) in
            [(&["h2", "http/1.1"][..], Some(0)), (&["http/1.1", "h2"], Some(1)), (&["spdy"], None), (&[], None)]
        {
            assert_eq!(Connection::tls("a", protocols).of(&matcher), expected, "{protocols:?}");
        }
        assert_eq!(Connection::from("192.0.2.1:1", "10.0.0.1:443").of(&matcher), Some(2));
    }

    #[test]
    fn there_is_no_way_back_from_a_more_specific_criterion() {
        let matcher = matcher(&["{destination_port: 443, server_names: [a.example]}", "{}"]);
        assert_eq!(Connection::tls("a.example", &[]).of(&matcher), Some(0));
        assert_eq!(Connection::tls("b.example", &[]).of(&matcher), None, "port 443 has a chain, though not for b");
    }

    #[test]
    fn unix_sockets_match_what_asks_for_no_address() {
        let matcher = matcher(&["{destination_port: 443}", "{source_type: SAME_IP_OR_LOOPBACK}"]);
        let connection = Connection {
            local: Address::Pipe("/run/a".into()),
            remote: Address::Pipe("".into()),
            ..Connection::from("192.0.2.1:1", "10.0.0.1:443")
        };
        assert_eq!(connection.of(&matcher), Some(1));
    }

    #[test]
    fn chains_that_cannot_be_told_apart_are_refused() {
        let mut matcher = matcher(&["{server_names: [a.example, b.example]}"]);
        assert_eq!(matcher.insert(&parse("{server_names: [c.example, B.example]}"), 1), Err(0));
        assert_eq!(matcher.insert(&parse("{server_names: [b.example], transport_protocol: tls}"), 2), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        let problems = |yaml: &str| {
            let report = Report::new();
            let proto: listener::FilterChainMatch = config::load(&Source::new("test", yaml), &report).unwrap();
            let parsed = FilterChainMatch::from_proto(&proto, Field::root(&report));
            let problems: Vec<_> = report.into_problems().iter().map(ToString::to_string).collect();
            (parsed.is_some(), problems)
        };
        for (yaml, accepted, problem) in [
            (
                "{server_names: [a, 'b*.example']}",
                false,
                "server_names[1]: \"b*.example\" is neither a name nor a wildcard such as *.example.com",
            ),
            (
                "{prefix_ranges: [{address_prefix: a}]}",
                false,
                "prefix_ranges[0].address_prefix: must be an IPv4 or IPv6 address",
            ),
            ("{address_suffix: '1'}", true, "address_suffix: valid in Envoy, not implemented by Portreeve yet"),
            (
                "{transport_protocol: quic}",
                true,
                "transport_protocol: no connection is ever \"quic\": there are \"tls\" and \"raw_buffer\"",
            ),
        ] {
            assert_eq!(problems(yaml), (accepted, vec![problem.to_owned()]), "{yaml}");
        }
    }
}
