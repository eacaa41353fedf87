//! The frames of a connection, seen from outside: what a peer sends that costs it nothing is counted and bounded, as Envoy's
//! `Http2ProtocolOptions` say. The h2 crate bounds by itself what it would have to keep.
//!
//! [`Watched`] stands between the socket and the h2 crate, and looks at the head of each frame that passes. A flood ends the
//! connection: reading fails, and [`Watch::flood`] says why.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stats;

/// How a client begins (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

stats::declare! {
    /// Of the HTTP/2 connections of all clients under `http2.`, of those to a cluster under `cluster.<name>.http2.`
    pub struct Stats {
        /// Connections closed for frames without content.
        inbound_empty_frames_flood: Counter,
        /// Connections closed for PRIORITY frames.
        inbound_priority_frames_flood: Counter,
        /// Connections closed for WINDOW_UPDATE frames.
        inbound_window_update_frames_flood: Counter,
        /// Connections closed because a PING was not answered.
        keepalive_timeout: Counter,
        /// RST_STREAM frames received.
        rx_reset: Counter,
        /// Streams refused because there were too many.
        stream_refused_errors: Counter,
        /// Trailers received.
        trailers: Counter,
        /// RST_STREAM frames sent.
        tx_reset: Counter,
    }
}

/// Bounds on what a peer may send for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Frames of messages in a row that bring nothing: `max_consecutive_inbound_frames_with_empty_payload`.
    pub empty_frames: u32,
    /// PRIORITY frames for each stream, and one more time as many.
    pub priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that was sent to the peer; a stream allows one as well.
    pub window_updates_per_data_frame: u32,
}

impl Default for Limits {
    /// Envoy's.
    fn default() -> Limits {
        Limits { empty_frames: 1, priority_frames_per_stream: 100, window_updates_per_data_frame: 10 }
    }
}

/// More of a kind of frame than the peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Frames without content.
    Empty,
    /// PRIORITY frames.
    Priority,
    /// WINDOW_UPDATE frames.
    WindowUpdate,
}

impl Flood {
    /// What became of the requests of the connection (`%RESPONSE_CODE_DETAILS%`).
    pub fn details(self) -> &'static str {
        match self {
            Flood::Empty => "http2.inbound_empty_frames_flood",
            Flood::Priority => "codec_error:Too_many_PRIORITY_frames",
            Flood::WindowUpdate => "codec_error:Too_many_WINDOW_UPDATE_frames",
        }
    }
}

/// What is counted of a connection, and whether it has been flooded.
#[derive(Debug, Clone)]
pub struct Watch {
    limits: Limits,
    stats: Stats,
    flood: Rc<Cell<Option<Flood>>>,
}

impl Watch {
    /// A watch for one connection.
    pub fn new(limits: Limits, stats: &Stats) -> Watch {
        Watch { limits, stats: stats.clone(), flood: Rc::default() }
    }

    /// A watch with Envoy's limits, whose counts nobody asks for.
    pub fn uncounted() -> Watch {
        Watch::new(Limits::default(), &Stats::new(&stats::Registry::new(0).scope("")))
    }

    /// The flood that ended the connection.
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// Counts a connection whose peer did not answer a PING.
    pub fn count_unanswered(&self) {
        self.stats.keepalive_timeout.inc();
    }

    /// The connection to a client, watched from its first byte.
    pub fn server<S>(&self, io: S) -> Watched<S> {
        Watched {
            io,
            inbound: Scanner::after(PREFACE),
            outbound: Scanner::after(0),
            counts: Counts { of_client: true, ..Counts::default() },
            watch: self.clone(),
        }
    }

    /// The connection to a host, watched from its first byte.
    pub fn client<S>(&self, io: S) -> Watched<S> {
        Watched {
            io,
            inbound: Scanner::after(0),
            outbound: Scanner::after(PREFACE),
            counts: Counts::default(),
            watch: self.clone(),
        }
    }
}

/// A connection whose frames are watched.
#[derive(Debug)]
pub struct Watched<S> {
    io: S,
    inbound: Scanner,
    outbound: Scanner,
    counts: Counts,
    watch: Watch,
}

/// What has passed on one connection.
#[derive(Debug, Default)]
struct Counts {
    /// The peer is a client: trailers are those of requests.
    of_client: bool,
    /// The last stream that a client has opened.
    last_stream: u32,
    streams: u64,
    empty_frames: u32,
    priority_frames: u64,
    window_updates: u64,
    data_frames_sent: u64,
}

/// The head of a frame (RFC 9113 section 4.1).
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The error code of RST_STREAM.
    code: u32,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

impl Counts {
    fn receive(&mut self, frame: FrameHead, watch: &Watch) -> Result<(), Flood> {
        let Watch { limits, stats, .. } = watch;
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind == HEADERS && frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                    self.streams += 1;
                } else if frame.kind == HEADERS && self.of_client {
                    stats.trailers.inc();
                }
                if frame.length > 0 || frame.flags & END_STREAM != 0 {
                    self.empty_frames = 0;
                    return Ok(());
                }
                self.empty_frames += 1;
                if self.empty_frames > limits.empty_frames {
                    stats.inbound_empty_frames_flood.inc();
                    return Err(Flood::Empty);
                }
            }
            PRIORITY => {
                self.priority_frames += 1;
                if self.priority_frames > u64::from(limits.priority_frames_per_stream) * (1 + self.streams) {
                    stats.inbound_priority_frames_flood.inc();
                    return Err(Flood::Priority);
                }
            }
            RST_STREAM => stats.rx_reset.inc(),
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let for_data = u64::from(limits.window_updates_per_data_frame) * self.data_frames_sent;
                if self.window_updates > 5 + 2 * (self.streams + for_data) {
                    stats.inbound_window_update_frames_flood.inc();
                    return Err(Flood::WindowUpdate);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, frame: FrameHead, stats: &Stats) {
        match frame.kind {
            DATA => self.data_frames_sent += 1,
            // Of a host's connection we open the streams.
            HEADERS => self.streams += u64::from(frame.stream > self.last_stream),
            RST_STREAM => {
                stats.tx_reset.inc();
                if frame.code == u32::from(Reason::REFUSED_STREAM) {
                    stats.stream_refused_errors.inc();
                }
            }
            _ => {}
        }
    }
}

/// Finds the heads of frames in a stream of bytes.
#[derive(Debug)]
struct Scanner {
    /// Bytes until the next head.
    skip: u32,
    head: [u8; Scanner::LONGEST],
    /// So much of the head is here.
    filled: usize,
}

impl Scanner {
    const HEAD: usize = 9;
    /// A head, and the error code that follows upon that of RST_STREAM.
    const LONGEST: usize = Scanner::HEAD + 4;

    fn after(skip: u32) -> Scanner {
        Scanner { skip, head: [0; Scanner::LONGEST], filled: 0 }
    }

    /// The next head that `bytes` complete; what was looked at is taken off them.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            *bytes = &bytes[skipped..];
            self.skip -= u32::try_from(skipped).unwrap_or(u32::MAX);
            let wanted = if self.filled >= Scanner::HEAD { Scanner::LONGEST } else { Scanner::HEAD };
            let taken = bytes.len().min(wanted - self.filled);
            if taken == 0 {
                return None;
            }
            let (head, rest) = bytes.split_at(taken);
            self.head[self.filled..self.filled + taken].copy_from_slice(head);
            self.filled += taken;
            *bytes = rest;
            if self.filled < wanted {
                return None;
            }
            let number = |at: usize| {
                u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
            };
            let (length, kind) = (number(0) >> 8, self.head[3]);
            let has_code = kind == RST_STREAM && length == 4;
            if has_code && self.filled == Scanner::HEAD {
                continue;
            }
            let code = if has_code { number(Scanner::HEAD) } else { 0 };
            self.skip = if has_code { 0 } else { length };
            self.filled = 0;
            return Some(FrameHead { length, kind, flags: self.head[4], stream: number(5) & 0x7fff_ffff, code });
        }
    }
}

impl<S> Watched<S> {
    fn see_received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(frame) = self.inbound.next(&mut bytes) {
            if let Err(flood) = self.counts.receive(frame, &self.watch) {
                self.watch.flood.set(Some(flood));
                return Err(io::Error::other(flood.details()));
            }
        }
        Ok(())
    }

    fn see_sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.outbound.next(&mut bytes) {
            self.counts.send(frame, &self.watch.stats);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.see_received(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.see_sent(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let written = left.min(slice.len());
            self.see_sent(&slice[..written]);
            left -= written;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn watched() -> Watched<()> {
        Watch::new(Limits::default(), &Stats::new(&Registry::new(0).scope("http2"))).client(())
    }

    #[test]
    fn frames_are_found_however_the_bytes_come() {
        let bytes =
            [frame(HEADERS, 4, 1, b"abc"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]), frame(DATA, 0, 3, b"")].concat();
        for size in 1..bytes.len() {
            let mut scanner = Scanner::after(0);
            let mut seen = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(head) = scanner.next(&mut piece) {
                    seen.push((head.kind, head.stream, head.code));
                }
            }
            assert_eq!(seen, [(HEADERS, 1, 0), (RST_STREAM, 1, 7), (DATA, 3, 0)]);
        }
    }

    #[test]
    fn frames_without_content_in_a_row_are_a_flood() {
        let mut watched = watched();
        let (empty, full) = (frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"a"));
        watched.see_received(&[&empty[..], &full, &empty, &full].concat()).unwrap();
        watched.see_received(&empty).unwrap();
        watched.see_received(&empty).unwrap_err();
        assert_eq!(watched.watch.flood(), Some(Flood::Empty));
    }

    #[test]
    fn what_was_sent_pays_for_window_updates() {
        let mut watched = watched();
        let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
        watched.see_sent(&[&[0; PREFACE as usize][..], &frame(DATA, 0, 1, b"a")].concat());
        watched.see_received(&update.repeat(25)).unwrap();
        watched.see_received(&update).unwrap_err();
        assert_eq!(watched.watch.flood(), Some(Flood::WindowUpdate));
    }
}
