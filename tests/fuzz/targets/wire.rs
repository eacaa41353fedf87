//! What stands before TLS and HTTP on a connection.

use portreeve::net::proxy_protocol::{self, Parsed};

/// PROXY headers: what was understood, written anew, is understood as the same; half a header is never taken for a whole one.
pub fn proxy_protocol(input: &[u8]) {
    let Parsed::Header(header) = proxy_protocol::parse(input) else { return };
    assert!(header.length <= input.len());
    assert!(proxy_protocol::may_begin(header.version, input));
    for end in 0..header.length {
        assert!(!matches!(proxy_protocol::parse(&input[..end]), Parsed::Header(_)), "whole after {end} bytes");
    }
    let tlvs = header.tlvs.iter().map(|(kind, value)| (*kind, value.as_slice()));
    for written in [proxy_protocol::v1(header.addresses), proxy_protocol::v2(header.addresses, tlvs)] {
        let Parsed::Header(again) = proxy_protocol::parse(&written) else { panic!("{}", written.escape_ascii()) };
        assert_eq!((again.addresses, again.length), (header.addresses, written.len()));
    }
}
