//! A response on its way out: head and body in as few writes as they fit into (RFC 9112 sections 4 to 7).
//!
//! Small pieces are collected, large ones are written from where they are. No more than [`LIMIT`] bytes and one frame wait: a client
//! that does not read stops the body behind it.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::{HeaderCase, Options, connection::Broken};
use crate::http::{
    Response,
    body::{Body, TimedBody},
};

/// How many bytes may wait for a write.
const LIMIT: usize = 16 * 1024;

/// A frame of this size is not copied.
const LARGE: usize = 4 * 1024;

/// What a buffer may keep of its memory between two responses.
const KEPT: usize = 4 * 1024;

/// What of a request decides how its response is written.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) method: Method,
    /// The answer turns the connection into a tunnel.
    pub(super) tunnel: bool,
}

/// Writes one response after the other.
#[derive(Debug)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    written: usize,
    /// Comes after the buffer.
    large: Bytes,
    /// Comes after that; nothing is here without it.
    after: Vec<u8>,
    framing: Framing,
    case: HeaderCase,
    trailers: bool,
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is no body.
    None,
    /// So many bytes are still due.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

impl Encoder {
    pub(super) fn new(options: &Options) -> Encoder {
        Encoder {
            buffer: Vec::new(),
            written: 0,
            large: Bytes::new(),
            after: Vec::new(),
            framing: Framing::None,
            case: options.header_case,
            trailers: options.trailers,
        }
    }

    /// Asks the client for its body.
    pub(super) fn send_continue(&mut self) {
        self.buffer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Writes a head into the buffer; `last` says that the connection ends with this response. Returns whether it does.
    pub(super) fn begin(&mut self, response: &Response, asked: &Asked, last: bool) -> bool {
        let (status, headers) = (response.status(), response.headers());
        self.framing = framing(response, asked);
        let last = !asked.tunnel && (last || self.framing == Framing::Close || says_close(headers));
        self.status_line(status, asked.version);
        // No length where there is no body to have one (RFC 9110 section 8.6).
        let lengthless = status.is_informational() || status == StatusCode::NO_CONTENT;
        for (name, value) in headers {
            let dropped = *name == TRANSFER_ENCODING || lengthless && *name == CONTENT_LENGTH;
            if !dropped {
                self.field(name, value);
            }
        }
        if last && !headers.contains_key(CONNECTION) {
            self.field(&CONNECTION, &HeaderValue::from_static("close"));
        } else if asked.version == Version::HTTP_10 && !last && !asked.tunnel {
            self.field(&CONNECTION, &HeaderValue::from_static("keep-alive"));
        }
        let has_length = headers.contains_key(CONTENT_LENGTH);
        if self.framing == Framing::Chunked || !has_length && is_chunked_elsewhere(status, asked) {
            self.field(&TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
        } else if let Framing::Length(length) = self.framing
            && !has_length
        {
            self.field(&CONTENT_LENGTH, &HeaderValue::from(length));
        }
        self.buffer.extend_from_slice(b"\r\n");
        last
    }

    /// Sends what the buffer holds, and the body; ready when all has been handed to the socket.
    pub(super) fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while self.framing != Framing::None {
            if !self.large.is_empty() || self.buffer.len() - self.written >= LIMIT {
                let flushed = self.poll_write(io, cx)?;
                if flushed.is_pending() {
                    // Its deadlines count while nobody has room for its frames.
                    return Pin::new(body).poll_expired(cx).map(|_| Err(Broken::Aborted));
                }
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.data(data)?;
                        if body.is_end_stream() {
                            self.end(None)?;
                        }
                    }
                    Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
                },
                Poll::Ready(None) => self.end(None)?,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Broken::Aborted)),
                Poll::Pending => {
                    ready!(self.poll_flush(io, cx))?;
                    return Poll::Pending;
                }
            }
        }
        ready!(self.poll_flush(io, cx))?;
        Poll::Ready(Ok(()))
    }

    /// Hands all that waits to the socket.
    pub(super) fn poll_flush(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_write(io, cx))?;
        Pin::new(io).poll_flush(cx)
    }

    fn poll_write(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let waiting = &self.buffer[self.written..];
            let mut io = Pin::new(&mut *io);
            let count = match (waiting, &self.large[..], &self.after[..]) {
                ([], [], _) => break,
                (only, [], _) | ([], only, []) => ready!(io.as_mut().poll_write(cx, only))?,
                (waiting, large, after) => {
                    let slices = [IoSlice::new(waiting), IoSlice::new(large), IoSlice::new(after)];
                    ready!(io.as_mut().poll_write_vectored(cx, &slices))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        self.buffer.clear();
        self.written = 0;
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// So many bytes have been written.
    fn advance(&mut self, count: usize) {
        let of_buffer = count.min(self.buffer.len() - self.written);
        let of_large = (count - of_buffer).min(self.large.len());
        self.written += of_buffer;
        self.large.advance(of_large);
        if self.large.is_empty() && !self.after.is_empty() {
            self.buffer.clear();
            std::mem::swap(&mut self.buffer, &mut self.after);
            self.written = count - of_buffer - of_large;
        }
    }

    /// Where the next bytes go.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.large.is_empty() { &mut self.buffer } else { &mut self.after }
    }

    fn status_line(&mut self, status: StatusCode, version: Version) {
        self.buffer.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        self.buffer.extend_from_slice(status.as_str().as_bytes());
        self.buffer.push(b' ');
        self.buffer.extend_from_slice(reason(status).as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
    }

    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let proper = self.case == HeaderCase::ProperWords;
        let buffer = self.next();
        let start = buffer.len();
        buffer.extend_from_slice(name.as_str().as_bytes());
        if proper {
            capitalize(&mut buffer[start..]);
        }
        buffer.extend_from_slice(b": ");
        buffer.extend_from_slice(value.as_bytes());
        buffer.extend_from_slice(b"\r\n");
    }

    fn data(&mut self, data: Bytes) -> Result<(), Broken> {
        if let Framing::Length(due) = &mut self.framing {
            // More than was announced would be the beginning of the next response.
            *due = due.checked_sub(data.len() as u64).ok_or(Broken::Aborted)?;
        }
        if data.is_empty() {
            return Ok(());
        }
        let chunked = self.framing == Framing::Chunked;
        if chunked {
            // Writing into memory does not fail.
            let _ = write!(self.buffer, "{:x}\r\n", data.len());
        }
        if data.len() >= LARGE {
            self.large = data;
        } else {
            self.buffer.extend_from_slice(&data);
        }
        if chunked {
            self.next().extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        match self.framing {
            Framing::Length(due) if due > 0 => return Err(Broken::Aborted),
            Framing::Chunked => {
                self.next().extend_from_slice(b"0\r\n");
                for (name, value) in trailers.filter(|_| self.trailers).into_iter().flatten() {
                    self.field(name, value);
                }
                self.next().extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        self.framing = Framing::None;
        Ok(())
    }
}

/// The phrase of a status, as Envoy's table has it: two that are registered are missing, and one is spelled as in RFC 9110.
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::IM_A_TEAPOT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => "Unknown",
        StatusCode::NON_AUTHORITATIVE_INFORMATION => "Non-Authoritative Information",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

/// How the end of the body will be told.
fn framing(response: &Response, asked: &Asked) -> Framing {
    let status = response.status();
    if asked.tunnel {
        return Framing::Close;
    }
    if is_bodiless(&asked.method, status) {
        return Framing::None;
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        Some(length) => Framing::Length(length),
        None => match response.body().size_hint().exact() {
            Some(length) => Framing::Length(length),
            None if asked.version == Version::HTTP_10 => Framing::Close,
            None => Framing::Chunked,
        },
    }
}

/// Whether a response has no body, whatever its head says (RFC 9110 section 6.4.1).
pub fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Whether the answer to a GET would come in chunks, which a response to HEAD may tell.
fn is_chunked_elsewhere(status: StatusCode, asked: &Asked) -> bool {
    let may_have_body = !is_bodiless(&Method::GET, status);
    asked.method == Method::HEAD && may_have_body && asked.version == Version::HTTP_11
}

fn says_close(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// `proper_case_words`: a letter is a capital at the front, and after all but letters and digits.
fn capitalize(name: &mut [u8]) {
    let mut front = true;
    for byte in name {
        if front {
            byte.make_ascii_uppercase();
        }
        front = !byte.is_ascii_alphanumeric();
    }
}
