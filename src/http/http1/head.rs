//! The head of a request: from bytes to method, target and fields, strictly (RFC 9112 sections 2 to 6).
//!
//! Refused is whatever two servers could read differently: two lengths, folded lines, two hosts, a bare CR, white space where none
//! belongs. A line may end with LF alone, as with every server. Names and values share the received bytes; nothing is copied.

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use memchr::{memchr, memrchr};

use super::{Options, Refusal};
use crate::http::{is_authority, upgrade::Upgrade};

/// A request's head, and what it says of its connection.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) length: Length,
    /// The client wants no further response on this connection.
    pub(super) last: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    pub(super) upgrade: Option<Upgrade>,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes.
    Known(u64),
    /// As its chunks say.
    Chunked,
    /// It ends with the connection, if the answer agrees to an upgrade or a tunnel.
    Tunnel,
}

/// Fields that the proxy adds to a request: room for them is made at once.
const ADDED_FIELDS: usize = 6;

/// The methods that Envoy knows.
const METHODS: [&str; 34] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Looks for the end of a head in bytes that grow, each of them once.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned: usize,
    lines: usize,
}

impl HeadScanner {
    /// Takes a head off the front of `input`; `None` if it is not complete.
    ///
    /// # Errors
    /// What is wrong with it. What is certain to be is found before the head is complete.
    pub(super) fn take_head(&mut self, input: &mut BytesMut, options: &Options) -> Result<Option<Head>, Refusal> {
        if self.lines == 0 && skip_empty_lines(input) {
            self.scanned = 0;
        }
        let before = self.lines;
        let end = self.find_end(input);
        if end.unwrap_or(input.len()) > options.max_header_bytes {
            return Err(Refusal::HeadersTooLarge);
        }
        let Some(end) = end else {
            // The request line is judged as soon as it is there: whoever speaks another protocol waits for an answer to that.
            if before == 0
                && let Some(line) = memchr(b'\n', input)
            {
                request_line(&Bytes::copy_from_slice(&input[..line]), options)?;
            }
            return Ok(None);
        };
        let lines = std::mem::take(self).lines;
        // The last line is the empty one, the first is no field.
        if lines > options.max_headers + 2 {
            return Err(Refusal::TooManyHeaders);
        }
        parse(&input.split_to(end).freeze(), lines, options).map(Some)
    }

    /// Where the head ends: after the first empty line.
    fn find_end(&mut self, input: &[u8]) -> Option<usize> {
        while let Some(at) = memchr(b'\n', &input[self.scanned..]) {
            let next = self.scanned + at + 1;
            match &input[next..] {
                [b'\n', ..] => return self.end(next + 1),
                [b'\r', b'\n', ..] => return self.end(next + 2),
                // What follows decides: look at this line's end again.
                [] | [b'\r'] => return None,
                _ => {
                    self.lines += 1;
                    self.scanned = next;
                }
            }
        }
        self.scanned = input.len();
        None
    }

    fn end(&mut self, at: usize) -> Option<usize> {
        self.lines += 2;
        Some(at)
    }
}

/// Skips empty lines before a request, which are left over from the one before (RFC 9112 section 2.2). Says whether there were any.
fn skip_empty_lines(input: &mut BytesMut) -> bool {
    let mut skipped = false;
    loop {
        match &input[..] {
            [b'\n', ..] => input.advance(1),
            [b'\r', b'\n', ..] => input.advance(2),
            _ => return skipped,
        }
        skipped = true;
    }
}

/// A complete head of so many lines, the empty one at its end included.
fn parse(head: &Bytes, lines: usize, options: &Options) -> Result<Head, Refusal> {
    parse_lines(head, lines, options).map_err(|refusal| match refusal {
        Refusal::Malformed if head.iter().any(|byte| byte.is_ascii_control() && !b"\r\n\t".contains(byte)) => {
            Refusal::InvalidCharacters
        }
        refusal => refusal,
    })
}

fn parse_lines(head: &Bytes, lines: usize, options: &Options) -> Result<Head, Refusal> {
    let mut rest = &head[..];
    let (method, target, version) = request_line(&head.slice_ref(take_line(&mut rest)), options)?;
    let mut fields = Fields::default();
    let mut headers = HeaderMap::with_capacity(lines + ADDED_FIELDS);
    loop {
        let line = take_line(&mut rest);
        if line.is_empty() {
            break;
        }
        let (name, value) = field(head, line)?;
        fields.see(&name, &value)?;
        headers.append(name, value);
    }
    let uri = request_target(&target, &method, options)?;
    let length = fields.length(&method, version, &mut headers, options)?;
    let upgrade = match length {
        Length::Known(0) | Length::Tunnel if fields.upgrade && version == Version::HTTP_11 => {
            upgrade(&mut headers, options)
        }
        // A request with a body that asks for an upgrade does without it (RFC 9110 section 7.8 allows that).
        _ => None,
    };
    Ok(Head {
        length: if upgrade.is_some() { Length::Tunnel } else { length },
        last: fields.close || version == Version::HTTP_10 && !fields.keep_alive,
        expects_continue: fields.expects_continue && version == Version::HTTP_11 && length != Length::Known(0),
        method,
        uri,
        version,
        headers,
        upgrade,
    })
}

/// The upgrade that is asked for, unless it is one to be ignored.
fn upgrade(headers: &mut HeaderMap, options: &Options) -> Option<Upgrade> {
    let upgrade = Upgrade::of_http1(headers)?;
    let ignored = |protocol: &[u8]| options.ignored_upgrades.iter().any(|matcher| matcher.matches(protocol));
    if !options.ignored_upgrades.is_empty() && ignored(upgrade.0.as_bytes()) {
        headers.remove(UPGRADE);
        return None;
    }
    Some(upgrade)
}

/// The next line, without its end.
fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = memchr(b'\n', rest).unwrap_or(rest.len());
    let line = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A field line (RFC 9112 section 5). The name ends at the colon: white space before it, or at the front of a folded line, is no name.
pub(super) fn field(head: &Bytes, line: &[u8]) -> Result<(HeaderName, HeaderValue), Refusal> {
    let colon = memchr(b':', line).ok_or(Refusal::Malformed)?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Refusal::Malformed)?;
    let value = trim(&line[colon + 1..]);
    let value = if value.is_empty() {
        HeaderValue::from_static("")
    } else {
        HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| Refusal::Malformed)?
    };
    Ok((name, value))
}

/// Without the white space that surrounds it: spaces and tabs, nothing else.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn request_line(line: &Bytes, options: &Options) -> Result<(Method, Bytes, Version), Refusal> {
    let line_text = line.strip_suffix(b"\r").unwrap_or(line);
    let (Some(first), Some(last)) = (memchr(b' ', line_text), memrchr(b' ', line_text)) else {
        return Err(Refusal::Malformed);
    };
    let name = &line_text[..first];
    let method = Method::from_bytes(name).map_err(|_| Refusal::Malformed)?;
    let usual = matches!(method, Method::GET | Method::POST | Method::HEAD | Method::PUT);
    if !usual && !options.allow_custom_methods && METHODS.binary_search(&method.as_str()).is_err() {
        return Err(Refusal::Malformed);
    }
    if first == last {
        // HTTP/0.9, where a request was a method and a target.
        return Err(if line_text.ends_with(b" ") { Refusal::Malformed } else { Refusal::LowVersion });
    }
    let version = match &line_text[last + 1..] {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" if options.accept_http_10 => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Refusal::LowVersion);
        }
        _ => return Err(Refusal::Malformed),
    };
    let target = &line_text[first + 1..last];
    if target.is_empty() || target.contains(&b' ') {
        return Err(Refusal::Malformed);
    }
    Ok((method, line.slice_ref(target), version))
}

/// The request target in one of its four forms (RFC 9112 section 3.2).
fn request_target(target: &Bytes, method: &Method, options: &Options) -> Result<Uri, Refusal> {
    if target.iter().any(|byte| !byte.is_ascii_graphic()) {
        return Err(Refusal::Malformed);
    }
    if target.contains(&b'#') {
        return Err(Refusal::Fragment);
    }
    if *method == Method::CONNECT {
        let authority = authority(target.clone())?;
        return if authority.port().is_some() { Ok(Uri::from(authority)) } else { Err(Refusal::InvalidUrl) };
    }
    if target.starts_with(b"/") || target[..] == *b"*" && *method == Method::OPTIONS {
        return path(target.clone()).map(Uri::from);
    }
    if target.starts_with(b"*") {
        return Err(Refusal::InvalidUrl);
    }
    absolute_form(target, options)
}

fn absolute_form(target: &Bytes, options: &Options) -> Result<Uri, Refusal> {
    const SEPARATOR: &[u8] = b"://";
    let length = target.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    if length == 0 || !target[length..].starts_with(SEPARATOR) {
        return Err(Refusal::Malformed);
    }
    if !options.allow_absolute_url {
        return Err(Refusal::AbsoluteUrl);
    }
    let scheme = match &target[..length] {
        name if name.eq_ignore_ascii_case(b"http") => Scheme::HTTP,
        name if name.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        _ => return Err(Refusal::InvalidScheme),
    };
    let rest = target.slice(length + SEPARATOR.len()..);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority(rest.slice(..end))?);
    parts.path_and_query =
        Some(if end == rest.len() { PathAndQuery::from_static("/") } else { path(rest.slice(end..))? });
    Uri::from_parts(parts).map_err(|_| Refusal::InvalidUrl)
}

fn path(text: Bytes) -> Result<PathAndQuery, Refusal> {
    PathAndQuery::from_maybe_shared(text).map_err(|_| Refusal::Malformed)
}

/// Host and port, without user information, which nobody should send (RFC 9110 section 4.2.4).
fn authority(text: Bytes) -> Result<Authority, Refusal> {
    if text.contains(&b'@') {
        return Err(Refusal::InvalidAuthority);
    }
    let authority = Authority::from_maybe_shared(text).map_err(|_| Refusal::InvalidUrl)?;
    let bare = authority.host().len() == authority.as_str().len();
    if authority.host().is_empty() || !bare && authority.port_u16().is_none() {
        return Err(Refusal::InvalidUrl);
    }
    Ok(authority)
}

/// What the fields of a head say that concerns the codec.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field that was there")]
struct Fields {
    content_length: Option<u64>,
    transfer_coding: Option<TransferCoding>,
    host: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
}

/// What `transfer-encoding` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    Unknown,
}

impl Fields {
    fn see(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        let bytes = value.as_bytes();
        if *name == HOST {
            // Two of them, or one that ends early for somebody, and two servers see different hosts.
            if std::mem::replace(&mut self.host, true) || !is_authority(bytes) {
                return Err(Refusal::InvalidAuthority);
            }
        } else if *name == CONTENT_LENGTH {
            let length = content_length(bytes).ok_or(Refusal::Malformed)?;
            if self.content_length.replace(length).is_some() {
                return Err(Refusal::Malformed);
            }
        } else if *name == TRANSFER_ENCODING {
            let chunked = bytes.eq_ignore_ascii_case(b"chunked") && self.transfer_coding.is_none();
            self.transfer_coding = Some(if chunked { TransferCoding::Chunked } else { TransferCoding::Unknown });
        } else if *name == CONNECTION {
            for token in bytes.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
            }
        } else if *name == EXPECT {
            self.expects_continue = bytes.eq_ignore_ascii_case(b"100-continue");
        }
        Ok(())
    }

    /// Where the body ends (RFC 9112 section 6.3), if everybody must agree on that.
    fn length(
        &self,
        method: &Method,
        version: Version,
        headers: &mut HeaderMap,
        options: &Options,
    ) -> Result<Length, Refusal> {
        let tunnel = *method == Method::CONNECT;
        if tunnel && self.content_length.is_some_and(|length| length > 0) {
            return Err(Refusal::BodyDisallowed);
        }
        let Some(coding) = self.transfer_coding else {
            return Ok(if tunnel { Length::Tunnel } else { Length::Known(self.content_length.unwrap_or(0)) });
        };
        if self.content_length.is_some() {
            if coding != TransferCoding::Chunked || !options.allow_chunked_length {
                return Err(Refusal::TwoLengths);
            }
            headers.remove(CONTENT_LENGTH);
        }
        if coding != TransferCoding::Chunked || tunnel {
            return Err(Refusal::InvalidTransferEncoding);
        }
        // HTTP/1.0 does not know it: whoever is between may have seen another end (RFC 9112 section 6.1).
        if version == Version::HTTP_10 { Err(Refusal::InvalidTransferEncoding) } else { Ok(Length::Chunked) }
    }
}

/// Digits and nothing else, for a number that any server can hold.
fn content_length(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = str::from_utf8(text).ok()?.parse::<u64>().ok()?;
    i64::try_from(length).is_ok().then_some(length)
}
