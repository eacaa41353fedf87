//! JA3 and JA4: what tells TLS clients apart by what they offer in their `ClientHello`.
//!
//! JA3 is the MD5 of five lists (<https://github.com/salesforce/ja3>), JA4 a readable part and two hashes of sorted lists
//! (<https://github.com/FoxIO-LLC/ja4>). Values that only keep servers tolerant (RFC 8701) count in neither.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use md5::{Digest, Md5};

/// The server name (RFC 6066).
const SERVER_NAME: u16 = 0;
/// The curves (RFC 8422), and groups (RFC 7919).
const SUPPORTED_GROUPS: u16 = 10;
/// How points of curves are written (RFC 8422).
const EC_POINT_FORMATS: u16 = 11;
/// How signatures are made (RFC 8446).
const SIGNATURE_ALGORITHMS: u16 = 13;
/// The application protocols (RFC 7301).
const ALPN: u16 = 16;
/// The versions (RFC 8446), where the version of the message does not tell.
const SUPPORTED_VERSIONS: u16 = 43;

/// First byte of a TLS record that holds a handshake.
const HANDSHAKE: u8 = 22;

/// The most that two digits can say.
const TWO_DIGITS: usize = 99;

/// The lists of a `ClientHello`, without the values of RFC 8701.
#[derive(Debug)]
pub struct Offer {
    version: u16,
    ciphers: Vec<u16>,
    /// Kinds and contents.
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Offer {
    /// Reads the `ClientHello` in these records (RFC 8446 section 4.1.2); `None` if it is cut short.
    #[must_use]
    pub fn parse(records: &[u8]) -> Option<Offer> {
        let message = message(records)?;
        // Kind and length of the message stand before it.
        let mut rest = Reader(message.get(1 + 3..)?);
        let version = rest.number()?;
        rest.take(32)?; // random
        rest.vector(1)?; // session id
        let ciphers = numbers(rest.vector(2)?);
        rest.vector(1)?; // compression methods
        let mut extensions = Vec::new();
        if !rest.0.is_empty() {
            let mut listed = Reader(rest.vector(2)?);
            while !listed.0.is_empty() {
                let kind = listed.number()?;
                let content = listed.vector(2)?;
                if !is_grease(kind) {
                    extensions.push((kind, content.to_vec()));
                }
            }
        }
        Some(Offer { version, ciphers, extensions })
    }

    /// Whether the client would take what this extension offers.
    #[must_use]
    pub fn has_extension(&self, kind: u16) -> bool {
        self.extension(kind).is_some()
    }

    fn extension(&self, wanted: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(kind, _)| *kind == wanted).map(|(_, content)| content.as_slice())
    }

    /// The numbers in an extension that is a list of them.
    fn list(&self, kind: u16) -> Vec<u16> {
        self.extension(kind).and_then(|content| Reader(content).vector(2)).map(numbers).unwrap_or_default()
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn ja3(&self) -> String {
        let kinds = self.extensions.iter().map(|(kind, _)| *kind);
        let formats = self.extension(EC_POINT_FORMATS).and_then(|content| Reader(content).vector(1));
        let formats = formats.into_iter().flatten().copied().map(u16::from);
        let text = format!(
            "{},{},{},{},{}",
            self.version,
            dashed(self.ciphers.iter().copied()),
            dashed(kinds),
            dashed(self.list(SUPPORTED_GROUPS).into_iter()),
            dashed(formats),
        );
        hexadecimal(&Md5::digest(text))
    }

    /// Such as `t13d1516h2_8daaf6152771_e5627efa2ab1`.
    #[must_use]
    pub fn ja4(&self) -> String {
        let server_name = if self.has_extension(SERVER_NAME) { 'd' } else { 'i' };
        let ciphers = sorted(self.ciphers.clone());
        let kinds = self.extensions.iter().map(|(kind, _)| *kind).filter(|kind| ![SERVER_NAME, ALPN].contains(kind));
        let mut extensions = sorted(kinds.collect());
        let algorithms = self.list(SIGNATURE_ALGORITHMS);
        if !algorithms.is_empty() {
            extensions = format!("{extensions}_{}", with_commas(&algorithms));
        }
        format!(
            "t{}{server_name}{:02}{:02}{}_{}_{}",
            self.version_of_ja4(),
            self.ciphers.len().min(TWO_DIGITS),
            self.extensions.len().min(TWO_DIGITS),
            self.protocol_of_ja4(),
            hash_of_ja4(&ciphers),
            hash_of_ja4(&extensions),
        )
    }

    /// The highest version offered, in two characters.
    fn version_of_ja4(&self) -> &'static str {
        let offered = self.extension(SUPPORTED_VERSIONS).and_then(|content| Reader(content).vector(1)).map(numbers);
        match offered.and_then(|versions| versions.into_iter().max()).unwrap_or(self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            _ => "00",
        }
    }

    /// The first and the last character of the first protocol offered.
    fn protocol_of_ja4(&self) -> String {
        let first = self.extension(ALPN).and_then(|content| Reader(Reader(content).vector(2)?).vector(1));
        let Some((Some(first), Some(last))) = first.map(|name| (name.first(), name.last())) else {
            return "00".to_owned();
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            format!("{}{}", char::from(*first), char::from(*last))
        } else {
            format!("{:x}{:x}", first >> 4, last & 0xf)
        }
    }
}

/// The handshake message in these records, from its first byte.
fn message(mut records: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let Some((header, rest)) = records.split_first_chunk::<5>().filter(|(header, _)| header[0] == HANDSHAKE) {
        let (fragment, rest) = rest.split_at_checked(u16::from_be_bytes([header[3], header[4]]).into())?;
        message.extend_from_slice(fragment);
        records = rest;
    }
    let length = message.get(1..4)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    message.truncate(4 + length);
    (message.len() == 4 + length).then_some(message)
}

/// Whether a number means nothing (RFC 8701): `0x0a0a`, `0x1a1a` and so on.
fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0xf == 0xa
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    let pairs = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    pairs.filter(|number| !is_grease(*number)).collect()
}

fn dashed(numbers: impl Iterator<Item = u16>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join("-")
}

fn sorted(mut numbers: Vec<u16>) -> String {
    numbers.sort_unstable();
    with_commas(&numbers)
}

fn with_commas(numbers: &[u16]) -> String {
    numbers.iter().map(|number| format!("{number:04x}")).collect::<Vec<_>>().join(",")
}

/// Twelve digits; zeros of nothing.
fn hash_of_ja4(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let mut hash = hexadecimal(digest(&SHA256, text.as_bytes()).as_ref());
    hash.truncate(12);
    hash
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from which values are taken off.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A vector whose length has so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'b [u8]> {
        let length = self.take(length_bytes)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `ClientHello` of TLS 1.2 with these ciphers and extensions, in one record.
    fn hello(ciphers: &[u16], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let with_length = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
        let ciphers = with_length(ciphers.iter().flat_map(|cipher| cipher.to_be_bytes()).collect());
        let extensions = extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &with_length(content.to_vec())].concat());
        let extensions = with_length(extensions.collect());
        let body = [&[3, 3][..], &[7; 32], &[0], &ciphers, &[1, 0], &extensions].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1][..], &length[1..], &body].concat();
        [&[HANDSHAKE, 3, 1][..], &with_length(message)].concat()
    }

    #[test]
    fn what_means_nothing_is_left_out() {
        let plain = hello(&[0x1301, 0xc02f], &[(10, &[0, 2, 0, 29]), (11, &[1, 0])]);
        let greased =
            hello(&[0x2a2a, 0x1301, 0xc02f], &[(0xfafa, &[0]), (10, &[0, 4, 0x1a, 0x1a, 0, 29]), (11, &[1, 0])]);
        let (plain, greased) = (Offer::parse(&plain).unwrap(), Offer::parse(&greased).unwrap());
        assert_eq!(plain.ja3(), greased.ja3());
        assert_eq!(plain.ja4(), greased.ja4());
        assert_eq!(plain.ja3(), hexadecimal(&Md5::digest("771,4865-49199,10-11,29,0")));
    }

    #[test]
    fn the_readable_part_of_ja4() {
        let start = |extensions: &[(u16, &[u8])]| {
            let ja4 = Offer::parse(&hello(&[0x1301], extensions)).unwrap().ja4();
            ja4.split('_').next().unwrap().to_owned()
        };
        assert_eq!(start(&[]), "t12i010000");
        assert_eq!(start(&[(0, b""), (43, &[4, 3, 3, 3, 4])]), "t13d010200");
        assert_eq!(start(&[(16, b"\0\x0c\x02h2\x08http/1.1")]), "t12i0101h2");
        assert_eq!(start(&[(16, b"\0\x09\x08http/1.1")]), "t12i0101h1");
        assert!(Offer::parse(&hello(&[], &[])).unwrap().ja4().ends_with("_000000000000_000000000000"));
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let bytes = hello(&[0x1301], &[(10, &[0, 2, 0, 29])]);
        for end in 0..bytes.len() {
            assert!(Offer::parse(&bytes[..end]).is_none(), "{end}");
        }
    }
}
