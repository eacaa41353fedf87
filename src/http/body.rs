//! Message bodies: streamed, never collected. Polling a body is the backpressure.
//!
//! A body that is dropped before its end has been given up: the codec or pool behind it then closes the connection or resets
//! the stream.

use std::{
    error::Error as _,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::Refusal;

/// A stream of data frames, and trailers last.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Http1(Incoming),
    Http2(Http2Body),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
    Timed(Pin<Box<dyn TimedBody>>),
}

/// A body with deadlines, which count also while nobody has room for its frames.
pub trait TimedBody: http_body::Body<Data = Bytes, Error = BodyError> {
    /// Ready when a deadline has passed: the body is not to be polled any more.
    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyError>;
}

/// Why a body ended before its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The peer reset the stream (RFC 9113 section 7).
    #[error("stream reset by the peer: {0}")]
    Reset(h2::Reason),
    /// The connection closed in the middle.
    #[error("connection closed before the end of the body")]
    Disconnect,
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The client broke the protocol of HTTP/1.
    #[error("the client broke the protocol: {0}")]
    Refused(Refusal),
    /// A limit of ours on time ran out.
    #[error("timeout")]
    Timeout,
}

impl BodyError {
    /// The HTTP/2 error code by which this end is told to the other side.
    pub fn reset_reason(&self) -> h2::Reason {
        match self {
            BodyError::Reset(reason) if *reason == h2::Reason::NO_ERROR => h2::Reason::CANCEL,
            BodyError::Reset(reason) => *reason,
            BodyError::Disconnect | BodyError::Protocol(_) | BodyError::Refused(_) => h2::Reason::INTERNAL_ERROR,
            BodyError::Timeout => h2::Reason::CANCEL,
        }
    }
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> BodyError {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => BodyError::Reset(reason),
            _ if error.is_io() => BodyError::Disconnect,
            _ if error.is_go_away() && error.is_remote() => BodyError::Disconnect,
            _ => BodyError::Protocol(error.to_string()),
        }
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> BodyError {
        // A body that ends before its end is a message that was never right; a connection that breaks is none of its doing.
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        let ends_early = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
        if error.is_parse() || ends_early { BodyError::Protocol(error.to_string()) } else { BodyError::Disconnect }
    }
}

impl Body {
    /// No bytes, no trailers.
    pub fn empty() -> Body {
        Body(Kind::Empty)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::empty() } else { Body(Kind::Full(bytes)) }
    }

    /// Any other body, such as one that a filter wraps around another.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Body {
        Body(Kind::Boxed(Box::pin(body)))
    }

    /// A body with deadlines.
    pub fn timed(body: impl TimedBody + 'static) -> Body {
        Body(Kind::Timed(Box::pin(body)))
    }
}

/// Its frames are not shown, for nobody has them yet.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Body {
        if http_body::Body::is_end_stream(&incoming) { Body::empty() } else { Body(Kind::Http1(incoming)) }
    }
}

impl From<h2::RecvStream> for Body {
    fn from(stream: h2::RecvStream) -> Body {
        if stream.is_end_stream() { Body::empty() } else { Body(Kind::Http2(Http2Body { stream, data_done: false })) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Kind::Http2(body) => body.poll_frame(cx),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
            Kind::Timed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Http1(incoming) => incoming.is_end_stream(),
            Kind::Http2(body) => body.stream.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Timed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1(incoming) => incoming.size_hint(),
            Kind::Http2(_) => SizeHint::default(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Timed(body) => body.size_hint(),
        }
    }
}

impl TimedBody for Body {
    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyError> {
        match &mut self.0 {
            Kind::Timed(body) => body.as_mut().poll_expired(cx),
            _ => Poll::Pending,
        }
    }
}

struct Http2Body {
    stream: h2::RecvStream,
    data_done: bool,
}

impl Http2Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever polls has room for the bytes: the window opens again only as the other side drains.
                    // An error here says that the stream has ended, which the next poll reports.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                // A reset after END_STREAM, by which a server says that it has read enough (RFC 9113 section 8.1), is no
                // error here: the h2 crate remembers the end. One before it cuts the body off, whatever its reason.
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}
