//! The body of a request: where it ends, by its length or its chunks (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::{
    Options, Refusal,
    head::{self, Length},
};

/// Bytes of chunk extensions that one body may have: nobody has a use for them but to keep us busy.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Bytes of a chunk's size that may come before it must end: leading zeros are allowed, but not for ever.
const MAX_SIZE_LINE: usize = 64;

/// Reads one body.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    extensions: usize,
    max_trailers: usize,
    max_trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of a body of known length are to come.
    Length(u64),
    /// The line with a chunk's size is to come.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The end of the line after a chunk.
    ChunkEnd,
    /// Trailers, or the empty line in their place.
    Trailers,
    /// Bytes that have no end but the connection's.
    Tunnel,
    Ended,
}

/// What the bytes that are there say.
#[derive(Debug)]
pub(super) enum Decoded {
    /// Nothing before more bytes come.
    Incomplete,
    /// Bytes of the body.
    Data(Bytes),
    /// The fields after the last chunk; they end the body.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
}

impl Decoder {
    pub(super) fn new(length: Length, options: &Options) -> Decoder {
        let state = match length {
            Length::Known(0) => State::Ended,
            Length::Known(length) => State::Length(length),
            Length::Chunked => State::Size,
            Length::Tunnel => State::Tunnel,
        };
        Decoder { state, extensions: 0, max_trailers: options.max_headers, max_trailer_bytes: options.max_header_bytes }
    }

    /// A body that has ended.
    pub(super) fn ended() -> Decoder {
        Decoder { state: State::Ended, extensions: 0, max_trailers: 0, max_trailer_bytes: 0 }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether it ends with the connection.
    pub(super) fn is_tunnel(&self) -> bool {
        self.state == State::Tunnel
    }

    /// How many bytes the body has, if that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// Takes what `input` has of the body.
    ///
    /// # Errors
    /// If it is malformed; where the body ends is not known then.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Refusal> {
        loop {
            match self.state {
                State::Length(remaining) => {
                    return Ok(self.data(input, remaining, State::Length, State::Ended));
                }
                State::Chunk(remaining) => {
                    return Ok(self.data(input, remaining, State::Chunk, State::ChunkEnd));
                }
                State::Tunnel => return Ok(self.data(input, u64::MAX, |_| State::Tunnel, State::Tunnel)),
                State::Size => match self.size(input)? {
                    None => return Ok(Decoded::Incomplete),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size),
                },
                State::ChunkEnd => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::Incomplete),
                    _ => return Err(Refusal::Malformed),
                },
                State::Trailers => return self.trailers(input),
                State::Ended => return Ok(Decoded::End),
            }
        }
    }

    /// Takes the end of the last chunk and of the body, if it is there and has no trailers: so that the end comes with the last bytes.
    pub(super) fn take_end(&mut self, input: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.state == State::ChunkEnd && input.starts_with(END) {
            input.advance(END.len());
            self.state = State::Ended;
        }
    }

    fn data(&mut self, input: &mut BytesMut, remaining: u64, going_on: fn(u64) -> State, end: State) -> Decoded {
        if input.is_empty() {
            return Decoded::Incomplete;
        }
        let count = usize::try_from(remaining).unwrap_or(usize::MAX).min(input.len());
        let data = input.split_to(count).freeze();
        let left = remaining - count as u64;
        self.state = if left == 0 { end } else { going_on(left) };
        Decoded::Data(data)
    }

    /// A chunk's size, once its line is complete.
    fn size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, Refusal> {
        let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > MAX_SIZE_LINE || digits == 0 && !input.is_empty() {
            return Err(Refusal::Malformed);
        }
        let Some(line) = memchr(b'\n', input) else {
            let rest = &input[digits..];
            let extension = rest.strip_suffix(b"\r").unwrap_or(rest);
            self.check_extension(extension)?;
            return Ok(None);
        };
        let extension = input[digits..line].strip_suffix(b"\r").ok_or(Refusal::Malformed)?;
        self.check_extension(extension)?;
        self.extensions += extension.len();
        let size = input[..digits].iter().try_fold(0u64, |size, digit| {
            let digit = u64::from(char::from(*digit).to_digit(16)?);
            size.checked_mul(16)?.checked_add(digit).filter(|size| i64::try_from(*size).is_ok())
        });
        input.advance(line + 1);
        size.map(Some).ok_or(Refusal::Malformed)
    }

    /// White space, or a semicolon and whatever, without control characters: a chunk's size ends at its line's end for everybody.
    fn check_extension(&self, extension: &[u8]) -> Result<(), Refusal> {
        let blank = extension.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
        let introduced = blank.is_none_or(|at| extension[at] == b';');
        let control = extension.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
        if !introduced || control || self.extensions + extension.len() > MAX_EXTENSIONS {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    /// The fields after the last chunk, once they are complete.
    fn trailers(&mut self, input: &mut BytesMut) -> Result<Decoded, Refusal> {
        let mut end = 0;
        let mut lines = 0;
        loop {
            let Some(line) = memchr(b'\n', &input[end..]) else {
                return if input.len() > self.max_trailer_bytes {
                    Err(Refusal::HeadersTooLarge)
                } else {
                    Ok(Decoded::Incomplete)
                };
            };
            let last = match &input[end..end + line] {
                [b'\r'] => true,
                [.., b'\r'] => false,
                _ => return Err(Refusal::Malformed),
            };
            end += line + 1;
            if last {
                break;
            }
            lines += 1;
            if lines > self.max_trailers {
                return Err(Refusal::TooManyHeaders);
            }
        }
        if end > self.max_trailer_bytes {
            return Err(Refusal::HeadersTooLarge);
        }
        self.state = State::Ended;
        let section = input.split_to(end).freeze();
        if lines == 0 {
            return Ok(Decoded::End);
        }
        let mut trailers = HeaderMap::with_capacity(lines);
        for line in section.split(|byte| *byte == b'\n').take(lines) {
            let (name, value) = head::field(&section, line.strip_suffix(b"\r").unwrap_or(line))?;
            if is_trailer(&name) {
                trailers.append(name, value);
            }
        }
        Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) })
    }
}

/// Whether a field may come after the body: what frames, routes or authenticates a message comes too late there, and is dropped
/// (RFC 9110 section 6.5.1).
fn is_trailer(name: &http::HeaderName) -> bool {
    use http::header::{
        AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST,
        MAX_FORWARDS, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    };
    ![
        AUTHORIZATION,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        HOST,
        MAX_FORWARDS,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}
