//! A request's body that can be sent once more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::http::body::{Body, BodyError, TimedBody};

/// So much of a body is kept for another attempt; a longer one has one attempt.
const LIMIT: usize = 64 * 1024;

/// A request's body that remembers what has been read of it, until that is known to be needless or too much.
pub(super) struct Recorder {
    body: Body,
    record: Option<Record>,
    end: End,
}

#[derive(Default)]
struct Record {
    frames: Vec<Recorded>,
    size: usize,
}

enum Recorded {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
    Broken,
}

impl Recorder {
    pub(super) fn new(body: Body) -> Recorder {
        Recorder { body, record: Some(Record::default()), end: End::Open }
    }

    /// The host has begun to process the request: there will be no other attempt.
    pub(super) fn forget(&mut self) {
        self.record = None;
    }

    /// Whether the body broke off.
    pub(super) fn is_broken(&self) -> bool {
        self.end == End::Broken
    }

    /// The whole body once more, if it is still known.
    pub(super) fn replay(self) -> Option<Body> {
        let record = self.record?;
        let rest = match self.end {
            End::Open => self.body,
            End::Reached => Body::empty(),
            End::Broken => return None,
        };
        if record.frames.is_empty() {
            return Some(rest);
        }
        Some(Body::boxed(Replay { frames: record.frames.into_iter(), rest }))
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(record) = &mut self.record else { return };
        if let Some(data) = frame.data_ref() {
            record.size += data.len();
            record.frames.push(Recorded::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            record.frames.push(Recorded::Trailers(trailers.clone()));
        }
        if record.size > LIMIT {
            self.record = None;
        }
    }
}

impl http_body::Body for Recorder {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.note(frame);
                if self.body.is_end_stream() || frame.is_trailers() {
                    self.end = End::Reached;
                }
            }
            Some(Err(_)) => self.end = End::Broken,
            None => self.end = End::Reached,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Reached || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl TimedBody for Recorder {
    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyError> {
        let error = ready!(Pin::new(&mut self.body).poll_expired(cx));
        self.end = End::Broken;
        Poll::Ready(error)
    }
}

/// What was read before, then the rest.
struct Replay {
    frames: vec::IntoIter<Recorded>,
    rest: Body,
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.next() {
            Some(Recorded::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Recorded::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.as_slice().is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    fn chunks(chunks: &[&'static [u8]]) -> Body {
        let frames: Vec<_> = chunks.iter().map(|chunk| Recorded::Data(Bytes::from_static(chunk))).collect();
        Body::boxed(Replay { frames: frames.into_iter(), rest: Body::empty() })
    }

    async fn text(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let mut recorder = Recorder::new(chunks(&[b"one ", b"two ", b"three"]));
        recorder.frame().await.unwrap().unwrap();
        recorder.frame().await.unwrap().unwrap();
        assert_eq!(text(recorder.replay().unwrap()).await, b"one two three");
    }

    #[tokio::test]
    async fn a_body_that_has_ended_is_read_again_to_its_end() {
        let mut recorder = Recorder::new(Body::full("all"));
        recorder.frame().await.unwrap().unwrap();
        assert!(recorder.is_end_stream());
        assert_eq!(text(recorder.replay().unwrap()).await, b"all");
    }

    #[tokio::test]
    async fn too_much_is_not_kept() {
        let mut recorder = Recorder::new(Body::full(vec![0; LIMIT + 1]));
        recorder.frame().await.unwrap().unwrap();
        assert!(recorder.replay().is_none());
    }
}
