//! What a worker asks for, validated: the model of a `RegisterRequest`.
//!
//! Every wrong field is reported with its path, all at once. What can only be judged against the rest of the ingress (who
//! holds a route, which names are taken, where a DNS name leads) is not decided here.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, header};

use crate::{
    config::Field,
    proto::{
        self,
        registration::{self as wire, Protocol, route::Match},
    },
    route::RouteKey,
};

/// The shortest lease.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// A worker process as it wants to be registered.
#[derive(Debug)]
pub struct Worker {
    /// Unique on this ingress.
    pub id: Arc<str>,
    /// The cluster that it joins or founds.
    pub service: Arc<str>,
    /// Where it listens; at least one.
    pub addresses: Vec<WorkerAddress>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// None: plain text.
    pub tls: Option<wire::UpstreamTls>,
    /// Which requests are its own, each route once, in the order of the request.
    pub routes: Vec<WorkerRoute>,
    /// Its share against the other workers of the service.
    pub weight: u32,
    /// None: the default.
    pub lease_time: Option<Duration>,
    /// The request, for those who ask what is registered.
    pub proto: wire::RegisterRequest,
}

/// One place where a worker listens.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerAddress {
    /// An IP address and port.
    Ip(IpAddr, u16),
    /// A DNS name and port.
    Name(String, u16),
    /// The path of a Unix socket.
    Socket(PathBuf),
}

/// One route of a worker.
#[derive(Clone, Debug)]
pub struct WorkerRoute {
    /// What selects it.
    pub key: RouteKey,
    /// Replaces the matched prefix; None for a route by header.
    pub prefix_rewrite: Option<Arc<str>>,
}

impl Worker {
    /// The worker that `proto` describes, or None after at least one error was reported.
    pub fn from_proto(proto: &wire::RegisterRequest, field: Field<'_>) -> Option<Worker> {
        let wire::RegisterRequest {
            worker_id,
            service,
            addresses,
            protocol,
            tls,
            routes,
            weight,
            metadata,
            lease_time,
        } = proto;
        let id = name_from_proto(worker_id, field.key("worker_id"));
        let service = name_from_proto(service, field.key("service"));
        let addresses = addresses_from_proto(addresses, field.key("addresses"));
        let protocol = protocol_from_proto(*protocol, tls.is_some(), field.key("protocol"));
        if let Some(tls) = tls {
            let by_socket = addresses.iter().flatten().any(|address| matches!(address, WorkerAddress::Socket(_)));
            check_tls(tls, by_socket, field.key("tls"));
        }
        let routes = routes_from_proto(routes, field.key("routes"));
        if *weight > 1000 {
            field.key("weight").error("must be at most 1000");
        }
        check_metadata(metadata, field.key("metadata"));
        let lease_time = lease_time_from_proto(lease_time, field);
        Some(Worker {
            id: id?,
            service: service?,
            addresses: addresses?,
            protocol: protocol?,
            tls: tls.clone(),
            routes: routes?,
            weight: (*weight).max(1),
            lease_time,
            proto: wire::RegisterRequest { weight: (*weight).max(1), ..proto.clone() },
        })
    }

    /// What selects its routes, in the order of the request.
    pub fn route_keys(&self) -> impl Iterator<Item = &RouteKey> {
        self.routes.iter().map(|route| &route.key)
    }

    /// What replaces the prefix of this route; None if it is not among its routes, or is by header.
    pub fn prefix_rewrite(&self, key: &RouteKey) -> Option<&Arc<str>> {
        self.routes.iter().find(|route| route.key == *key)?.prefix_rewrite.as_ref()
    }

    /// Whether one cluster can hold both workers.
    pub fn same_transport(&self, other: &Worker) -> bool {
        self.protocol == other.protocol && self.tls == other.tls
    }
}

/// A lease time that a caller asks for, in Register or Renew.
pub fn lease_time_from_proto(lease_time: &Option<proto::Duration>, field: Field<'_>) -> Option<Duration> {
    let lease_time = field.duration("lease_time", lease_time)?;
    if lease_time < MIN_LEASE {
        field.key("lease_time").error("must be at least 1s");
    }
    Some(lease_time)
}

/// A worker id or the name of a service. Neither holds "/" or "+", so that the names of clusters made of them are unique.
pub fn name_from_proto(name: &str, field: Field<'_>) -> Option<Arc<str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@:-".contains(&byte);
    if name.is_empty() {
        field.error("is required");
    } else if name.len() > 128 {
        field.error(format!("must have at most 128 characters, has {}", name.len()));
    } else if !name.bytes().all(allowed) {
        field.error("may hold only A-Z a-z 0-9 . _ ~ @ : -");
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        field.error("must begin with a letter or digit");
    } else {
        return Some(name.into());
    }
    None
}

fn addresses_from_proto(proto: &[wire::Address], field: Field<'_>) -> Option<Vec<WorkerAddress>> {
    if proto.is_empty() {
        field.error("needs at least one address");
    }
    if proto.len() > 16 {
        field.error(format!("must have at most 16 entries, has {}", proto.len()));
    }
    let mut addresses = Vec::with_capacity(proto.len());
    for (index, address) in proto.iter().enumerate() {
        let field = field.index(index);
        let Some(address) = address_from_proto(address, field) else { continue };
        match addresses.iter().position(|earlier| *earlier == address) {
            Some(earlier) => field.error(format!("is the same as addresses[{earlier}]")),
            None => addresses.push(address),
        }
    }
    (addresses.len() == proto.len()).then_some(addresses)
}

/// One place where a worker listens.
pub fn address_from_proto(proto: &wire::Address, field: Field<'_>) -> Option<WorkerAddress> {
    let wire::Address { host, port, unix_socket } = proto;
    if !unix_socket.is_empty() {
        if !host.is_empty() || *port != 0 {
            field.error("has both unix_socket and host or port");
            return None;
        }
        return socket_from_proto(unix_socket, field.key("unix_socket"));
    }
    let port = match u16::try_from(*port) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            field.key("port").error(format!("must be 1 to 65535, is {port}"));
            None
        }
    };
    if host.is_empty() {
        field.key("host").error("is required, or unix_socket");
        return None;
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(WorkerAddress::Ip(ip.to_canonical(), port?));
    }
    if !is_dns_name(host) {
        field.key("host").error("must be an IP address (without brackets) or a DNS name");
        return None;
    }
    Some(WorkerAddress::Name(host.trim_end_matches('.').to_ascii_lowercase(), port?))
}

fn socket_from_proto(path: &str, field: Field<'_>) -> Option<WorkerAddress> {
    let socket = Path::new(path);
    let plain = socket.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !socket.is_absolute() || !plain || path.contains('\0') || path.ends_with('/') {
        field.error("must be an absolute path without \"..\"");
    } else if path.len() > 107 {
        field.error(format!("must have at most 107 bytes, has {}", path.len()));
    } else {
        return Some(WorkerAddress::Socket(socket.to_owned()));
    }
    None
}

/// Whether `host` reads as a DNS name. One whose last label is a number is not: resolvers take it for an IPv4 address.
fn is_dns_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let allowed = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        allowed && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.starts_with(|first: char| first.is_ascii_digit())
}

fn protocol_from_proto(proto: i32, tls: bool, field: Field<'_>) -> Option<Protocol> {
    match Protocol::try_from(proto) {
        Ok(Protocol::H2) if !tls => field.error("PROTOCOL_H2 needs tls; in plain text it is PROTOCOL_H2C"),
        Ok(Protocol::H2c) if tls => field.error("PROTOCOL_H2C excludes tls; with TLS it is PROTOCOL_H2"),
        Ok(protocol) => return Some(protocol),
        Err(_) => field.error(format!("has the unknown value {proto}")),
    }
    None
}

/// `by_socket`: one of the addresses is a Unix socket, and so has no name.
fn check_tls(proto: &wire::UpstreamTls, by_socket: bool, field: Field<'_>) {
    let wire::UpstreamTls { ca_certificates, sni, subject_alt_names, as_cluster } = proto;
    if !sni.is_empty() && !is_dns_name(sni) {
        field.key("sni").error("must be a DNS name");
    }
    for (index, name) in subject_alt_names.iter().enumerate() {
        if name.is_empty() {
            field.key("subject_alt_names").index(index).error("must not be empty");
        }
    }
    let alone = ca_certificates.is_empty() && sni.is_empty() && subject_alt_names.is_empty();
    if !as_cluster.is_empty() && !alone {
        field.key("as_cluster").error("excludes all other fields of tls");
    }
    if by_socket && as_cluster.is_empty() && sni.is_empty() {
        field.key("sni").error("is required with unix_socket");
    }
}

fn routes_from_proto(proto: &[wire::Route], field: Field<'_>) -> Option<Vec<WorkerRoute>> {
    if proto.len() > 64 {
        field.error(format!("must have at most 64 entries, has {}", proto.len()));
        return None;
    }
    let parsed: Vec<_> =
        proto.iter().enumerate().map(|(index, route)| route_from_proto(route, field.index(index))).collect();
    for (index, route) in parsed.iter().enumerate() {
        let same = |earlier: &Option<WorkerRoute>| {
            earlier.as_ref().zip(route.as_ref()).is_some_and(|(earlier, route)| earlier.key == route.key)
        };
        if let Some(earlier) = parsed[..index].iter().position(same) {
            field.index(index).error(format!("is the same as routes[{earlier}]"));
        }
    }
    parsed.into_iter().collect()
}

fn route_from_proto(proto: &wire::Route, field: Field<'_>) -> Option<WorkerRoute> {
    let wire::Route { prefix_rewrite, r#match } = proto;
    match r#match {
        None => {
            field.error("needs path_prefix or header");
            None
        }
        Some(Match::PathPrefix(prefix)) => {
            let prefix = path_from_proto(prefix, field.key("path_prefix"));
            let rewrite = prefix_rewrite.as_deref().unwrap_or("/");
            let rewrite = path_from_proto(rewrite, field.key("prefix_rewrite"));
            Some(WorkerRoute { key: RouteKey::Prefix(prefix?), prefix_rewrite: Some(rewrite?) })
        }
        Some(Match::Header(header)) => {
            if prefix_rewrite.is_some() {
                field.key("prefix_rewrite").error("goes with path_prefix only");
            }
            let wire::HeaderMatch { name, value } = header;
            let field = field.key("header");
            let name = header_name_from_proto(name, field.key("name"));
            let value = header_value_from_proto(value, field.key("value"));
            Some(WorkerRoute { key: RouteKey::Header(name?, value?), prefix_rewrite: None })
        }
    }
}

/// A path of whole segments, without the slash at its end.
fn path_from_proto(path: &str, field: Field<'_>) -> Option<Arc<str>> {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let mut segments = trimmed.split('/').skip(1);
    if !path.starts_with('/') {
        field.error("must start with \"/\"");
    } else if path.len() > 1024 {
        field.error(format!("must have at most 1024 bytes, has {}", path.len()));
    } else if path.contains(['?', '#']) {
        field.error("must not hold a query or a fragment");
    } else if segments.any(|segment| matches!(segment, "" | "." | "..")) {
        field.error("must not hold an empty, \".\" or \"..\" segment");
    } else if !is_path(path) {
        field.error("holds a character that must be percent-encoded");
    } else {
        return Some(if trimmed.is_empty() { "/" } else { trimmed }.into());
    }
    None
}

/// Whether every byte is one that RFC 3986 section 3.3 allows in a path.
fn is_path(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    let encoded = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    path.bytes().all(allowed) && path.split('%').skip(1).all(encoded)
}

fn header_name_from_proto(name: &str, field: Field<'_>) -> Option<Arc<str>> {
    if name.is_empty() {
        field.error("is required");
        return None;
    }
    match HeaderName::try_from(name) {
        Ok(name) if name == header::HOST => field.error("must not be the host header"),
        Ok(name) => return Some(name.as_str().into()),
        Err(_) => field.error("is not the name of a header"),
    }
    None
}

fn header_value_from_proto(value: &str, field: Field<'_>) -> Option<Arc<str>> {
    if value.is_empty() {
        field.error("is required: an empty header matches no route");
    } else if value.len() > 1024 {
        field.error(format!("must have at most 1024 characters, has {}", value.len()));
    } else if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        field.error("may hold visible ASCII characters only");
    } else {
        return Some(value.into());
    }
    None
}

fn check_metadata(metadata: &HashMap<String, String>, field: Field<'_>) {
    if metadata.len() > 64 {
        field.error(format!("must have at most 64 entries, has {}", metadata.len()));
    }
    let mut entries: Vec<_> = metadata.iter().collect();
    entries.sort_unstable();
    for (key, value) in entries {
        if key.is_empty() || key.len() > 128 {
            field.entry(key).error("has a key of less than 1 or more than 128 bytes");
        }
        if value.len() > 1024 {
            field.entry(key).error(format!("must have at most 1024 bytes, has {}", value.len()));
        }
    }
}

#[cfg(test)]
mod tests;
