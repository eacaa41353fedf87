//! Address ranges (`envoy.config.core.v3.CidrRange`).

use std::net::IpAddr;

use crate::{config::Field, proto};

/// A range of IP addresses that share a prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CidrRange {
    prefix: IpAddr,
    length: u8,
}

impl CidrRange {
    /// Compiles an `envoy.config.core.v3.CidrRange`.
    pub fn from_proto(proto: &proto::core::CidrRange, field: Field<'_>) -> Option<CidrRange> {
        let proto::core::CidrRange { address_prefix, prefix_len } = proto;
        CidrRange::parse(address_prefix, prefix_len.as_ref().map_or(0, |length| length.value), field)
    }

    /// Compiles an `xds.core.v3.CidrRange`.
    pub fn from_xds(proto: &proto::xds_core::CidrRange, field: Field<'_>) -> Option<CidrRange> {
        let proto::xds_core::CidrRange { address_prefix, prefix_len } = proto;
        CidrRange::parse(address_prefix, prefix_len.as_ref().map_or(0, |length| length.value), field)
    }

    fn parse(address_prefix: &str, length: u32, field: Field<'_>) -> Option<CidrRange> {
        let Ok(prefix) = address_prefix.parse::<IpAddr>() else {
            field.key("address_prefix").error("must be an IPv4 or IPv6 address");
            return None;
        };
        let longest = if prefix.is_ipv4() { 32 } else { 128 };
        if length > 128 {
            field.key("prefix_len").error("is longer than the address");
            return None;
        }
        if length > longest {
            field.key("prefix_len").warning("is longer than the address, which is meant as a whole");
        }
        CidrRange::new(prefix, u8::try_from(length.min(longest)).ok()?)
    }

    /// The addresses whose first `length` bits are those of `prefix`; None if the address has fewer bits.
    #[must_use]
    pub fn new(prefix: IpAddr, length: u8) -> Option<CidrRange> {
        let bits = u32::from(length);
        let prefix = match prefix {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Some(CidrRange { prefix, length })
    }

    /// Its first address.
    #[must_use]
    pub fn prefix(&self) -> IpAddr {
        self.prefix
    }

    /// How many bits its addresses share: the longer, the more specific.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` is in the range. A range of one IP version holds no addresses of the other.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        CidrRange::new(address, self.length).is_some_and(|range| range.prefix == self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    #[test]
    fn ranges_hold_what_shares_their_prefix() {
        for (prefix, length, address, expected) in [
            ("10.0.0.0", 8, "10.255.1.2", true),
            ("10.0.0.0", 8, "11.0.0.0", false),
            ("10.1.2.3", 8, "10.9.9.9", true),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("0.0.0.0", 0, "255.1.1.1", true),
            ("0.0.0.0", 0, "::1", false),
            ("::", 0, "2001:db8::1", true),
            ("2001:db8::", 32, "2001:db8:1::", true),
            ("2001:db8::", 32, "2001:db9::", false),
            ("fd00::", 64, "10.0.0.1", false),
        ] {
            let range = CidrRange::new(prefix.parse().unwrap(), length).unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{prefix}/{length} {address}");
        }
        assert_eq!(CidrRange::new("1.2.3.4".parse().unwrap(), 33), None);
    }

    #[test]
    fn bad_ranges_are_refused() {
        for (address_prefix, length, problem) in [
            ("nonsense", 8, "address_prefix: must be an IPv4 or IPv6 address"),
            ("::", 300, "prefix_len: is longer than the address"),
        ] {
            let report = Report::new();
            let prefix_len = Some(proto::UInt32Value { value: length });
            let proto = proto::core::CidrRange { address_prefix: address_prefix.to_owned(), prefix_len };
            assert_eq!(CidrRange::from_proto(&proto, Field::root(&report)), None);
            assert_eq!(report.into_problems()[0].to_string(), problem);
        }
    }
}
