//! Writes fields in protobuf's wire format.

use prost::encoding::{WireType, encode_key, encode_varint};

/// A message, string or bytes field.
pub(super) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// An integer, bool or enum field; negative numbers as their two's complement in 64 bits.
pub(super) fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

/// A fixed32, sfixed32 or float field.
pub(super) fn put_fixed32(number: u32, value: [u8; 4], out: &mut Vec<u8>) {
    encode_key(number, WireType::ThirtyTwoBit, out);
    out.extend_from_slice(&value);
}

/// A fixed64, sfixed64 or double field.
pub(super) fn put_fixed64(number: u32, value: [u8; 8], out: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value);
}
