//! Address ranges (`envoy.config.core.v3.CidrRange`).

use std::net::IpAddr;

/// A range of IP addresses that share a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CidrRange {
    prefix: IpAddr,
    length: u8,
}

impl CidrRange {
    /// The addresses whose first `length` bits are those of `prefix`; None if the address has fewer bits.
    #[must_use]
    pub fn new(prefix: IpAddr, length: u8) -> Option<CidrRange> {
        let (prefix, bits) = match prefix {
            IpAddr::V4(v4) => {
                (IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).into()), 32)
            }
            IpAddr::V6(v6) => {
                (IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).into()), 128)
            }
        };
        (length <= bits).then_some(CidrRange { prefix, length })
    }

    /// Whether `address` is in the range. An IPv4 range never contains an IPv6 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        CidrRange::new(address, self.length) == Some(*self)
    }
}
