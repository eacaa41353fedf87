//! Copies of requests for other clusters (`request_mirror_policies`).
//!
//! A copy is sent along with its request: what is read of the body for the request is kept for the copy until its cluster takes it.
//! Nobody waits for a copy, so one that falls too far behind is given up. What becomes of it is told to nobody but by statistics.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{task::spawn_local, time::timeout};

use crate::{
    filter::http::Stream,
    http::{
        Request,
        body::{Body, BodyError},
        copy_head,
        headers::X_ENVOY_INTERNAL,
        upgrade::Upgrade,
    },
    route::RouteRef,
    stats::Counter,
    upstream::{ClusterState, LoadBalancerContext, Origin, UpstreamAttempt},
};

/// How many bytes may wait for a copy.
const LIMIT: usize = 1 << 20;

/// Sends the copies that the route asks for. `limit` is how long each may take; `None`: as long as it likes. `abandoned` counts those
/// that are given up.
pub(super) fn mirror(
    route: &RouteRef,
    request: &mut Request,
    stream: &mut Stream,
    limit: Option<Duration>,
    abandoned: &Counter,
) {
    // Whatever goes through an upgrade is no request.
    if request.extensions().get::<Upgrade>().is_some() {
        return;
    }
    stream.show_request(request);
    let worker = &stream.worker;
    let mut copies = Vec::new();
    for policy in route.mirror_policies() {
        if !policy.holds(&worker.runtime(), worker.random.next_u64()) {
            continue;
        }
        let cluster = policy.cluster(request).and_then(|name| worker.clusters.get(name));
        let Some(cluster) = cluster else { continue };
        let mut copy = copy_head(request);
        // Who sends it is within.
        copy.headers_mut().insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        policy.finalize(&mut copy, &stream.info);
        *copy.body_mut() = if request.body().is_end_stream() {
            Body::empty()
        } else {
            let pieces = Rc::new(RefCell::new(Pieces::default()));
            copies.push(Rc::clone(&pieces));
            Body::boxed(CopiedBody { pieces, length: request.body().size_hint().exact(), read: 0 })
        };
        spawn_local(async move {
            let sending = send(&cluster, &mut copy);
            // What comes of it concerns nobody.
            match limit {
                Some(limit) => drop(timeout(limit, sending).await),
                None => sending.await,
            }
        });
    }
    if !copies.is_empty() {
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::boxed(MirroredBody { body, copies, limit: LIMIT, abandoned: abandoned.clone() });
    }
}

async fn send(cluster: &Rc<ClusterState>, copy: &mut Request) {
    let Some(host) = cluster.choose_host(&LoadBalancerContext::default()) else { return };
    let Ok(response) = cluster.send(&host, copy, &UpstreamAttempt::default()).await else { return };
    let status = response.status().as_u16();
    cluster.cluster().responses.count(status, Origin::Internal, response.headers());
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

/// What of a request's body a copy has still to read.
#[derive(Default)]
struct Pieces {
    waiting: VecDeque<Piece>,
    size: usize,
    state: State,
    reader: Option<Waker>,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// There is more to come.
    #[default]
    Open,
    /// This is the rest.
    Complete,
    /// The rest will not come, or nobody wants it.
    Broken,
}

impl Pieces {
    /// Adds what was read; false if that is more than may wait.
    fn add(&mut self, frame: &Frame<Bytes>, limit: usize) -> bool {
        if let Some(data) = frame.data_ref() {
            self.size += data.len();
            self.waiting.push_back(Piece::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.waiting.push_back(Piece::Trailers(trailers.clone()));
        }
        self.size <= limit
    }

    fn end(&mut self, state: State) {
        if self.state == State::Open {
            self.state = state;
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The body of a request of which there are copies.
struct MirroredBody {
    body: Body,
    copies: Vec<Rc<RefCell<Pieces>>>,
    /// How many bytes may wait for a copy.
    limit: usize,
    abandoned: Counter,
}

impl MirroredBody {
    fn copy(&mut self, frame: &Frame<Bytes>) {
        let complete = frame.is_trailers() || self.body.is_end_stream();
        self.copies.retain(|copy| {
            let mut copy = copy.borrow_mut();
            let keeps_up = copy.state == State::Open && copy.add(frame, self.limit);
            if copy.state == State::Open && !keeps_up {
                self.abandoned.inc();
                copy.end(State::Broken);
            } else if complete {
                copy.end(State::Complete);
            }
            copy.wake();
            keeps_up && !complete
        });
    }
}

impl http_body::Body for MirroredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.copy(frame),
            Some(Err(_)) => {}
            None => self.copies.drain(..).for_each(|copy| copy.borrow_mut().end(State::Complete)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for MirroredBody {
    fn drop(&mut self) {
        self.copies.iter().for_each(|copy| copy.borrow_mut().end(State::Broken));
    }
}

/// The body of a copy.
struct CopiedBody {
    pieces: Rc<RefCell<Pieces>>,
    /// What the request said of its length.
    length: Option<u64>,
    read: u64,
}

impl http_body::Body for CopiedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut pieces = this.pieces.borrow_mut();
        match (pieces.state, pieces.waiting.pop_front()) {
            (State::Broken, _) => Poll::Ready(Some(Err(BodyError::Disconnect))),
            (_, Some(Piece::Data(data))) => {
                pieces.size -= data.len();
                this.read += data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            (_, Some(Piece::Trailers(trailers))) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (State::Complete, None) => Poll::Ready(None),
            (State::Open, None) => {
                pieces.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let pieces = self.pieces.borrow();
        pieces.state == State::Complete && pieces.waiting.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.read)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        self.pieces.borrow_mut().state = State::Broken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn mirrored(text: &'static str, limit: usize) -> (MirroredBody, Body, Counter) {
        let abandoned = Registry::new(1).scope("cluster.a").counter("retry_or_shadow_abandoned");
        let pieces = Rc::new(RefCell::new(Pieces::default()));
        let copy = Body::boxed(CopiedBody { pieces: Rc::clone(&pieces), length: Some(5), read: 0 });
        let body = Body::full(text);
        (MirroredBody { body, copies: vec![pieces], limit, abandoned: abandoned.clone() }, copy, abandoned)
    }

    #[tokio::test]
    async fn a_copy_gets_what_its_request_reads() {
        let (mut body, copy, abandoned) = mirrored("hello", 5);
        assert_eq!(copy.size_hint().exact(), Some(5));
        body.frame().await.unwrap().unwrap();
        assert_eq!(copy.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(abandoned.value(), 0);
    }

    #[tokio::test]
    async fn a_copy_that_lags_behind_is_given_up() {
        let (mut body, mut copy, abandoned) = mirrored("hello", 4);
        body.frame().await.unwrap().unwrap();
        assert!(copy.frame().await.unwrap().is_err());
        assert_eq!(abandoned.value(), 1);
    }

    #[tokio::test]
    async fn a_copy_breaks_off_with_its_request() {
        let (body, mut copy, _) = mirrored("hello", 5);
        drop(body);
        assert!(copy.frame().await.unwrap().is_err());
    }
}
