//! A request's body that is kept while it is read, so that it can be sent again.
//!
//! Attempts read it one after the other; each begins with what is kept and goes on with what is still to come. A body that is
//! larger than the limit is no longer kept: the attempt that reads it goes on, and there is no other.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    http::body::{Body, BodyError},
    stats::Counter,
};

/// A body that is kept.
pub(super) struct KeptBody(Rc<RefCell<Kept>>);

struct Kept {
    source: Body,
    pieces: Vec<Piece>,
    size: usize,
    limit: usize,
    state: State,
    /// What the source said of its length.
    length: Option<u64>,
    /// Which reader may read on.
    current: u32,
    /// Counts a body that became too large.
    abandoned: Counter,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is more to come.
    Open,
    /// All of it is kept.
    Complete,
    /// What was read is lost, because it was too much or nobody needs it.
    Lost,
    /// The source broke off.
    Broken,
}

impl KeptBody {
    /// Keeps what is read of `source`, up to `limit` bytes; `abandoned` counts a body that is larger.
    pub(super) fn new(source: Body, limit: usize, abandoned: &Counter) -> KeptBody {
        let length = source.size_hint().exact();
        KeptBody(Rc::new(RefCell::new(Kept {
            source,
            pieces: Vec::new(),
            size: 0,
            limit,
            state: State::Open,
            length,
            current: 0,
            abandoned: abandoned.clone(),
        })))
    }

    /// The body from its beginning. Earlier readers read nothing new from now on.
    pub(super) fn read(&self) -> Body {
        let mut kept = self.0.borrow_mut();
        kept.current += 1;
        let reader = Reader { kept: Rc::clone(&self.0), number: kept.current, next: 0, read: 0 };
        drop(kept);
        Body::boxed(reader)
    }

    /// Whether it can be read from its beginning again.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.0.borrow().state, State::Open | State::Complete)
    }

    /// The whole body, if all of it is kept, for a reader that leaves the others alone.
    pub(super) fn whole(&self) -> Option<Body> {
        let reader = || Body::boxed(Reader { kept: Rc::clone(&self.0), number: 0, next: 0, read: 0 });
        (self.0.borrow().state == State::Complete).then(reader)
    }

    /// There will be no other reader: what is still to come need not be kept.
    pub(super) fn forget(&self) {
        let mut kept = self.0.borrow_mut();
        if kept.state == State::Open {
            kept.state = State::Lost;
        }
    }
}

impl Kept {
    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        if self.state == State::Lost {
            return;
        }
        match frame {
            None => self.state = State::Complete,
            Some(Err(_)) => self.state = State::Broken,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.size += data.len();
                    self.pieces.push(Piece::Data(data.clone()));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.pieces.push(Piece::Trailers(trailers.clone()));
                }
                if self.size > self.limit {
                    self.abandoned.inc();
                    self.state = State::Lost;
                } else if frame.is_trailers() || self.source.is_end_stream() {
                    self.state = State::Complete;
                }
            }
        }
    }
}

/// One reader, which may lag behind.
struct Reader {
    kept: Rc<RefCell<Kept>>,
    number: u32,
    /// The next piece that it wants of those kept.
    next: usize,
    /// Bytes it has read.
    read: u64,
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut kept = this.kept.borrow_mut();
        let frame = match kept.pieces.get(this.next) {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data.clone()))),
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers.clone()))),
            None if kept.state == State::Complete => None,
            None if kept.current != this.number => return Poll::Ready(Some(Err(BodyError::Disconnect))),
            None => {
                let frame = ready!(Pin::new(&mut kept.source).poll_frame(cx));
                kept.note(frame.as_ref());
                frame
            }
        };
        if kept.state == State::Lost {
            // Only this reader goes on, so nobody needs what it has read.
            let read = kept.pieces.len().min(this.next + 1);
            kept.pieces.drain(..read);
            this.next = 0;
        } else {
            this.next += 1;
        }
        if let Some(Ok(frame)) = &frame {
            this.read += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        match kept.state {
            State::Complete => self.next >= kept.pieces.len(),
            State::Lost => kept.pieces.is_empty() && kept.source.is_end_stream(),
            State::Open | State::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.kept.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.read)),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::stats::Registry;

    fn kept(source: Body, limit: usize) -> (KeptBody, Counter) {
        let abandoned = Registry::new(1).scope("cluster.a").counter("retry_or_shadow_abandoned");
        (KeptBody::new(source, limit, &abandoned), abandoned)
    }

    async fn text(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn each_reader_begins_at_the_beginning() {
        let (kept, abandoned) = kept(Body::full("hello"), 5);
        let first = kept.read();
        assert_eq!(first.size_hint().exact(), Some(5));
        assert_eq!(text(first).await, b"hello");
        assert!(kept.is_whole());
        assert_eq!(text(kept.read()).await, b"hello");
        assert_eq!(abandoned.value(), 0);
    }

    #[tokio::test]
    async fn an_earlier_reader_takes_nothing_from_a_later_one() {
        let (kept, _) = kept(Body::full("hello"), 5);
        let mut first = kept.read();
        let second = kept.read();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(text(second).await, b"hello");
    }

    #[tokio::test]
    async fn too_large_a_body_is_read_once() {
        let (kept, abandoned) = kept(Body::full("hello"), 4);
        assert_eq!(text(kept.read()).await, b"hello");
        assert!(!kept.is_whole());
        assert_eq!(abandoned.value(), 1);
    }

    #[tokio::test]
    async fn what_is_kept_is_read_on_by_the_last_reader() {
        let (first, _) = kept(Body::full("hello "), 100);
        let mut reader = first.read();
        reader.frame().await.unwrap().unwrap();
        let again = first.read();
        first.forget();
        assert_eq!(text(again).await, b"hello ");
    }
}
