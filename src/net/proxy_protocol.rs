//! The PROXY protocol: whom a proxy in front speaks for, in one header before everything else (versions 1 and 2 of
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of a header of version 2.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of a header of version 2.
const V2_HEADER: usize = 16;
/// The first bytes of a header of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY";
/// Room for values in a header of version 2 with addresses of IPv6, as Envoy reckons it for those of IPv4, too.
pub const V2_MAX_TLVS: usize = u16::MAX as usize - 36;
/// The longest header of version 1, the end of its line included.
const V1_MAX: usize = 107;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A complete header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it was written.
    pub version: Version,
    /// The client and the address that it connected to; `None`: those of this connection count.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Types and values of what version 2 may add.
    pub tlvs: Vec<(u8, Vec<u8>)>,
    /// How many bytes it takes.
    pub length: usize,
}

/// What the first bytes of a connection turn out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header, and nothing is missing.
    Header(Header),
    /// It may become one.
    Incomplete,
    /// Not a header of either version.
    NotFound,
    /// A header of this version that breaks the rules, or speaks of something other than TCP or UDP over IP.
    Malformed(Version),
}

/// Whether a connection that begins with these bytes may still begin with a header of this version.
#[must_use]
pub fn may_begin(version: Version, bytes: &[u8]) -> bool {
    let signature = match version {
        Version::V1 => V1_SIGNATURE,
        Version::V2 => V2_SIGNATURE,
    };
    bytes.iter().zip(signature).all(|(byte, wanted)| byte == wanted)
}

/// Reads a header from the first bytes of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.len() >= V2_HEADER {
        if bytes.starts_with(V2_SIGNATURE) {
            return parse_v2(bytes);
        }
        if !bytes.starts_with(V1_SIGNATURE) {
            return Parsed::NotFound;
        }
    }
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").filter(|end| *end > 0);
    match end.map(|end| end + 2) {
        Some(length) if length <= V1_MAX => parse_v1(&bytes[..length]),
        None if bytes.len() <= V1_MAX => Parsed::Incomplete,
        _ => Parsed::Malformed(Version::V1),
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 4000 443`
fn parse_v1(line: &[u8]) -> Parsed {
    let malformed = Parsed::Malformed(Version::V1);
    let Ok(text) = str::from_utf8(line) else { return malformed };
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    let addresses = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| {
                let ip = match *family {
                    "TCP4" => IpAddr::V4(ip.parse::<Ipv4Addr>().ok()?),
                    _ => IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?),
                };
                Some(SocketAddr::new(ip, port.parse().ok()?))
            };
            let both = address(source, source_port).zip(address(destination, destination_port));
            let Some(both) = both.filter(are_unicast) else { return malformed };
            Some(both)
        }
        _ => return malformed,
    };
    Parsed::Header(Header { version: Version::V1, addresses, tlvs: Vec::new(), length: line.len() })
}

/// The fixed part, addresses, then types with values.
fn parse_v2(bytes: &[u8]) -> Parsed {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let malformed = Parsed::Malformed(Version::V2);
    let (command, family) = (bytes[12], bytes[13]);
    let length = V2_HEADER + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let ip = match (command, family >> 4, family & 0xf) {
        (LOCAL, ..) => None,
        (PROXY, 1, 1 | 2) => Some(4),
        (PROXY, 2, 1 | 2) => Some(16),
        _ => return malformed,
    };
    let addresses_end = V2_HEADER + ip.map_or(0, |ip| 2 * (ip + 2));
    if length < addresses_end {
        return malformed;
    }
    if bytes.len() < length {
        return Parsed::Incomplete;
    }
    let Some(ip) = ip else {
        return Parsed::Header(Header { version: Version::V2, addresses: None, tlvs: Vec::new(), length });
    };
    let addresses = &bytes[V2_HEADER..addresses_end];
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let source = SocketAddr::new(ip_address(&addresses[..ip]), port(2 * ip));
    let destination = SocketAddr::new(ip_address(&addresses[ip..2 * ip]), port(2 * ip + 2));
    let both = Some((source, destination)).filter(are_unicast);
    match (both, tlvs(&bytes[addresses_end..length])) {
        (addresses @ Some(_), Some(tlvs)) => Parsed::Header(Header { version: Version::V2, addresses, tlvs, length }),
        _ => malformed,
    }
}

fn ip_address(bytes: &[u8]) -> IpAddr {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => v4.into(),
        (_, Ok(v6)) => v6.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn tlvs(mut bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut tlvs = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(3)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
        tlvs.push((head[0], value.to_vec()));
        bytes = rest;
    }
    Some(tlvs)
}

fn are_unicast((source, destination): &(SocketAddr, SocketAddr)) -> bool {
    [source.ip(), destination.ip()].iter().all(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    })
}

/// A header of version 1. Without addresses of one family, or for Unix sockets, it says that nothing is known.
#[must_use]
pub fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let line = match addresses {
        Some((source @ SocketAddr::V4(_), destination @ SocketAddr::V4(_))) => {
            format!("PROXY TCP4 {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
        }
        Some((source @ SocketAddr::V6(_), destination @ SocketAddr::V6(_))) => {
            format!("PROXY TCP6 {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    };
    line.into_bytes()
}

/// A header of version 2, or `LOCAL` without addresses of one family. What does not fit into its 64 KiB is left out.
#[must_use]
pub fn v2<'t>(addresses: Option<(SocketAddr, SocketAddr)>, tlvs: impl IntoIterator<Item = (u8, &'t [u8])>) -> Vec<u8> {
    let mut rest = Vec::new();
    let (command, family) = match addresses {
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            rest.extend(source.ip().octets());
            rest.extend(destination.ip().octets());
            rest.extend(source.port().to_be_bytes());
            rest.extend(destination.port().to_be_bytes());
            (0x21, 0x11)
        }
        Some((SocketAddr::V6(source), SocketAddr::V6(destination))) => {
            rest.extend(source.ip().octets());
            rest.extend(destination.ip().octets());
            rest.extend(source.port().to_be_bytes());
            rest.extend(destination.port().to_be_bytes());
            (0x21, 0x21)
        }
        _ => (0x20, 0x00),
    };
    for (kind, value) in tlvs {
        let fits = u16::try_from(rest.len() + 3 + value.len()).is_ok();
        let Some(length) = u16::try_from(value.len()).ok().filter(|_| fits && command == 0x21) else { continue };
        rest.push(kind);
        rest.extend(length.to_be_bytes());
        rest.extend(value);
    }
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(length.to_be_bytes());
    header.extend(rest);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> Header {
        match parse(bytes) {
            Parsed::Header(header) => header,
            other => panic!("{other:?}"),
        }
    }

    fn pair(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        for addresses in [pair("192.0.2.1:4000", "192.0.2.2:443"), pair("[2001:db8::1]:1", "[2001:db8::2]:65535")] {
            let text = v1(addresses);
            let read = header(&[&text[..], b"rest"].concat());
            assert_eq!((read.addresses, read.length, read.version), (addresses, text.len(), Version::V1));
            let binary = v2(addresses, [(1, &b"h2"[..]), (0xe0, b"")]);
            let read = header(&[&binary[..], b"rest"].concat());
            assert_eq!((read.addresses, read.length, read.version), (addresses, binary.len(), Version::V2));
            assert_eq!(read.tlvs, [(1, b"h2".to_vec()), (0xe0, Vec::new())]);
            for (version, header) in [(Version::V1, text), (Version::V2, binary)] {
                assert!(may_begin(version, &header) && may_begin(version, &header[..3]));
                for end in 0..header.len() {
                    assert_eq!(parse(&header[..end]), Parsed::Incomplete, "{end}");
                }
            }
        }
        assert_eq!(header(&v1(None)).addresses, None);
        assert_eq!(header(&v2(None, [])).addresses, None);
    }

    #[test]
    fn what_breaks_the_rules_is_malformed() {
        for line in [
            "PROXY TCP4 1.2.3.4 1.2.3.5 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1 65536\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.5 1 2\r\n",
            "PROXY TCP4 224.0.0.1 1.2.3.5 1 2\r\n",
            "PROXY TCP4 1.2.3.4 0.0.0.0 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.5 1 2\r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.5 1 2\r\n",
            "PROXY\r\n",
            "hello\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Malformed(Version::V1), "{line}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Parsed::NotFound);
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(long.as_bytes()), Parsed::Malformed(Version::V1));
        let good = v2(pair("192.0.2.1:4000", "192.0.2.2:443"), [(1, &b"h2"[..])]);
        for (at, byte) in [(12, 0x11), (12, 0x22), (13, 0x31), (13, 0x10), (15, 11), (30, 9)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(parse(&bad), Parsed::Malformed(Version::V2), "{at}");
        }
        assert!(!may_begin(Version::V1, b"GET") && !may_begin(Version::V2, b"PROXY"));
    }
}
