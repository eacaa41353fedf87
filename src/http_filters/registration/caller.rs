//! Callers of the registration API: how they prove who they are, and which addresses their workers may have.
//!
//! Nobody is a caller by default. Tokens are compared in constant time, all of them every time, and never printed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use tokio::net::unix::UCred;

use crate::{
    config::{Field, data_source},
    matcher::CidrRange,
    proto::{
        UInt32Value, core, handoff,
        registration::{self as wire, caller},
    },
};

/// Someone who may register workers, and owns what it registers.
#[derive(Debug)]
pub struct Caller {
    /// What logs, owner fields and messages call it.
    pub name: Arc<str>,
    /// Whether it may change what others own.
    pub admin: bool,
    allowed_networks: Vec<CidrRange>,
    allowed_socket_directories: Vec<PathBuf>,
}

/// Why a request comes from no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// It brings no token, and its peer is not a caller.
    #[error("no credentials: send `authorization: Bearer TOKEN`")]
    NoCredentials,
    /// Its token is nobody's.
    #[error("unknown credentials")]
    UnknownToken,
}

/// The process at the other end of a Unix socket, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// All callers of one filter.
#[derive(Debug, Default)]
pub struct Callers(Vec<(Credential, Arc<Caller>)>);

enum Credential {
    Token(Box<[u8]>),
    Peer { uid: Option<u32>, gid: Option<u32> },
}

impl Callers {
    /// The callers that a filter's configuration names.
    pub fn from_proto(proto: &[wire::Caller], field: Field<'_>) -> Option<Callers> {
        let mut callers: Vec<(Credential, Arc<Caller>)> = Vec::with_capacity(proto.len());
        for (index, caller) in proto.iter().enumerate() {
            let field = field.index(index);
            let Some((credential, caller)) = Caller::from_proto(caller, field) else { continue };
            if callers.iter().any(|(_, earlier)| earlier.name == caller.name) {
                field.key("name").error(format!("there is a caller {:?} already", caller.name));
            }
            if let Some((_, twin)) = callers.iter().find(|(earlier, _)| credential.is(earlier)) {
                field.key("bearer_token").error(format!("is the token of caller {:?} too", twin.name));
            }
            callers.push((credential, Arc::new(caller)));
        }
        (callers.len() == proto.len()).then_some(Callers(callers))
    }

    /// Who sends a request with these headers over a connection from this peer.
    ///
    /// # Errors
    /// Why it is no caller.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<&Arc<Caller>, Unauthenticated> {
        let Some(authorization) = headers.get(header::AUTHORIZATION) else {
            let caller = self.0.iter().find(|(credential, _)| peer.is_some_and(|peer| credential.is_peer(peer)));
            return caller.map(|(_, caller)| caller).ok_or(Unauthenticated::NoCredentials);
        };
        let token = bearer_token(authorization.as_bytes()).ok_or(Unauthenticated::NoCredentials)?;
        // Every token is compared, so that the time tells nothing about where one matched.
        let mut found = None;
        for (credential, caller) in &self.0 {
            if credential.is_token(token) {
                found = Some(caller);
            }
        }
        found.ok_or(Unauthenticated::UnknownToken)
    }
}

impl Caller {
    fn from_proto(proto: &wire::Caller, field: Field<'_>) -> Option<(Credential, Caller)> {
        let wire::Caller { name, admin, allowed_networks, allowed_socket_directories, credential } = proto;
        let name_is_good = !name.is_empty() && name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !name_is_good {
            field.key("name").error("must be 1 to 128 visible ASCII characters");
        }
        let credential = Credential::from_proto(credential.as_ref(), field);
        let networks = networks_from_proto(allowed_networks, field.key("allowed_networks"));
        let directories = field.key("allowed_socket_directories");
        for (index, directory) in allowed_socket_directories.iter().enumerate() {
            if !Path::new(directory).is_absolute() {
                directories.index(index).error("must be an absolute path");
            }
        }
        let caller = Caller {
            name: name.as_str().into(),
            admin: *admin,
            allowed_networks: networks?,
            allowed_socket_directories: allowed_socket_directories.iter().map(PathBuf::from).collect(),
        };
        name_is_good.then_some((credential?, caller))
    }

    /// The caller that another process knew.
    pub fn from_handoff(proto: &handoff::Caller, field: Field<'_>) -> Option<Caller> {
        let handoff::Caller { name, admin, allowed_networks, allowed_socket_directories } = proto;
        Some(Caller {
            name: name.as_str().into(),
            admin: *admin,
            allowed_networks: networks_from_proto(allowed_networks, field.key("allowed_networks"))?,
            allowed_socket_directories: allowed_socket_directories.iter().map(PathBuf::from).collect(),
        })
    }

    /// As another process is told of it.
    pub fn to_handoff(&self) -> handoff::Caller {
        let network = |network: &CidrRange| core::CidrRange {
            address_prefix: network.prefix().to_string(),
            prefix_len: Some(UInt32Value { value: network.length().into() }),
        };
        let directory = |directory: &PathBuf| directory.to_string_lossy().into_owned();
        handoff::Caller {
            name: self.name.to_string(),
            admin: self.admin,
            allowed_networks: self.allowed_networks.iter().map(network).collect(),
            allowed_socket_directories: self.allowed_socket_directories.iter().map(directory).collect(),
        }
    }

    /// A caller without rights beyond the usual.
    #[cfg(test)]
    pub fn for_tests(name: &str) -> Caller {
        Caller { name: name.into(), admin: false, allowed_networks: Vec::new(), allowed_socket_directories: Vec::new() }
    }

    /// Whether its workers may have this address.
    pub fn may_reach(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.allowed_networks.is_empty() {
            return !is_special(address);
        }
        self.allowed_networks.iter().any(|network| network.contains(address))
    }

    /// Whether its workers may listen on this Unix socket.
    pub fn may_reach_socket(&self, path: &Path) -> bool {
        self.allowed_socket_directories.iter().any(|directory| path.starts_with(directory))
    }
}

/// All of them or, so that a wrong one does not mean "whatever is usual", none.
fn networks_from_proto(proto: &[core::CidrRange], field: Field<'_>) -> Option<Vec<CidrRange>> {
    let networks = proto.iter().enumerate();
    let networks: Vec<_> =
        networks.filter_map(|(index, range)| CidrRange::from_proto(range, field.index(index))).collect();
    (networks.len() == proto.len()).then_some(networks)
}

impl From<UCred> for Peer {
    fn from(credentials: UCred) -> Peer {
        Peer { uid: credentials.uid(), gid: credentials.gid() }
    }
}

impl Credential {
    fn from_proto(proto: Option<&caller::Credential>, field: Field<'_>) -> Option<Credential> {
        match proto {
            None => {
                field.error("needs bearer_token or unix_peer");
                None
            }
            Some(caller::Credential::BearerToken(source)) => {
                let field = field.key("bearer_token");
                let token = data_source::read(source, field)?;
                let token = token.trim_ascii();
                if token.len() < 16 || !token.iter().all(u8::is_ascii_graphic) {
                    field.error("must be at least 16 visible ASCII characters");
                    return None;
                }
                Some(Credential::Token(token.into()))
            }
            Some(caller::Credential::UnixPeer(wire::UnixPeer { uid, gid })) => {
                if uid.is_none() && gid.is_none() {
                    field.key("unix_peer").error("needs uid or gid");
                    return None;
                }
                Some(Credential::Peer { uid: uid.map(|uid| uid.value), gid: gid.map(|gid| gid.value) })
            }
        }
    }

    /// Whether both are the same token. Peers may be in several groups: the first caller that fits is taken.
    fn is(&self, other: &Credential) -> bool {
        matches!((self, other), (Credential::Token(this), Credential::Token(other)) if this == other)
    }

    fn is_token(&self, given: &[u8]) -> bool {
        matches!(self, Credential::Token(token) if bool::from(token.ct_eq(given)))
    }

    fn is_peer(&self, peer: Peer) -> bool {
        match self {
            Credential::Token(_) => false,
            Credential::Peer { uid, gid } => {
                uid.is_none_or(|uid| uid == peer.uid) && gid.is_none_or(|gid| gid == peer.gid)
            }
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Token(_) => f.write_str("Token([redacted])"),
            Credential::Peer { uid, gid } => f.debug_struct("Peer").field("uid", uid).field("gid", gid).finish(),
        }
    }
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1; the scheme in any case).
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Addresses behind which no worker is, but often something that nobody outside should reach: the ingress's own machine, its
/// link, a cloud's metadata service, more than one machine.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_special_v4(address),
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || METADATA_V6.contains(&address)
                || embedded_v4(address).is_some_and(is_special_v4)
        }
    }
}

fn is_special_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0/8 is "this network", 240/4 is reserved and holds the broadcast address (RFC 6890).
    first == 0
        || first >= 240
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || METADATA_V4.contains(&address)
}

/// Metadata services outside the link-local range: of Alibaba, Azure and Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// Metadata services of Amazon and Google.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// The IPv4 address that a translator would take out of this one: NAT64 (RFC 6052), 6to4 (RFC 3056), IPv4-compatible.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn caller(networks: &[&str]) -> Caller {
        let allowed_networks = networks
            .iter()
            .map(|network| {
                let (prefix, length) = network.split_once('/').unwrap();
                CidrRange::new(prefix.parse().unwrap(), length.parse().unwrap()).unwrap()
            })
            .collect();
        let allowed_socket_directories = vec![PathBuf::from("/run/workers")];
        Caller { name: "a".into(), admin: false, allowed_networks, allowed_socket_directories }
    }

    #[test]
    fn special_addresses_need_permission() {
        let special = [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
        ];
        for address in special {
            assert!(!caller(&[]).may_reach(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "1.1.1.1", "fd00::1", "2001:db8::1", "64:ff9b::a00:1"] {
            assert!(caller(&[]).may_reach(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn given_networks_are_all_there_is() {
        let caller = caller(&["127.0.0.0/8", "10.1.0.0/16"]);
        assert!(caller.may_reach("127.0.0.1".parse().unwrap()));
        assert!(caller.may_reach("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!caller.may_reach("10.2.0.1".parse().unwrap()));
        assert!(!caller.may_reach("::1".parse().unwrap()));
    }

    #[test]
    fn another_process_knows_the_same_of_a_caller() {
        let caller = Caller { admin: true, ..caller(&["127.0.0.0/8", "2001:db8::/32"]) };
        let mut proto = caller.to_handoff();
        let same = Caller::from_handoff(&proto, Field::root(&Report::new())).unwrap();
        assert_eq!(format!("{same:?}"), format!("{caller:?}"));
        proto.allowed_networks[0].address_prefix = "nonsense".to_owned();
        assert!(Caller::from_handoff(&proto, Field::root(&Report::new())).is_none());
    }

    #[test]
    fn sockets_lie_below_allowed_directories() {
        let caller = caller(&[]);
        assert!(caller.may_reach_socket(Path::new("/run/workers/a.sock")));
        assert!(!caller.may_reach_socket(Path::new("/run/workers-of-others/a.sock")));
        assert!(!caller.may_reach_socket(Path::new("/run/docker.sock")));
    }

    fn callers() -> Callers {
        let named = |name: &str| Arc::new(Caller { name: name.into(), ..caller(&[]) });
        Callers(vec![
            (Credential::Token((*b"0123456789abcdef").into()), named("token")),
            (Credential::Peer { uid: Some(7), gid: None }, named("peer")),
        ])
    }

    fn authenticate(authorization: Option<&str>, uid: Option<u32>) -> Result<String, Unauthenticated> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        let peer = uid.map(|uid| Peer { uid, gid: 0 });
        callers().authenticate(&headers, peer).map(|caller| caller.name.to_string())
    }

    #[test]
    fn callers_are_known_by_token_or_peer() {
        assert_eq!(authenticate(Some("Bearer 0123456789abcdef"), None).unwrap(), "token");
        assert_eq!(authenticate(Some("bearer  0123456789abcdef"), None).unwrap(), "token");
        assert_eq!(authenticate(None, Some(7)).unwrap(), "peer");
        assert_eq!(authenticate(None, Some(8)), Err(Unauthenticated::NoCredentials));
        assert_eq!(authenticate(None, None), Err(Unauthenticated::NoCredentials));
        assert_eq!(authenticate(Some("Basic 0123456789abcdef"), None), Err(Unauthenticated::NoCredentials));
        assert_eq!(authenticate(Some("Bearer 0123456789abcde"), Some(7)), Err(Unauthenticated::UnknownToken));
        assert_eq!(authenticate(Some("Bearer "), None), Err(Unauthenticated::UnknownToken));
    }

    #[test]
    fn tokens_are_not_printed() {
        assert!(!format!("{:?}", callers()).contains("0123456789abcdef"));
    }
}
