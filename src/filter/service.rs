//! Internal services: requests that the main thread answers, such as those of the registration API.
//!
//! A filter on a worker hands over the request with a body that may cross threads, and awaits the answer.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::http::body::{Body, BodyError};

/// A body that may cross threads.
pub type SendBody = UnsyncBoxBody<Bytes, BodyError>;

/// A request for the main thread, and where its answer goes.
pub struct InternalRequest {
    /// The request; what the filter knows of the caller stands in its extensions.
    pub request: http::Request<SendBody>,
    /// Takes the answer; closed when the client has gone.
    pub answer: oneshot::Sender<http::Response<SendBody>>,
}

/// The way to a service on the main thread.
#[derive(Clone, Debug)]
pub struct InternalService(mpsc::Sender<InternalRequest>);

impl InternalService {
    /// A service, and where its requests arrive. At most `backlog` wait.
    pub fn new(backlog: usize) -> (InternalService, mpsc::Receiver<InternalRequest>) {
        let (sender, receiver) = mpsc::channel(backlog);
        (InternalService(sender), receiver)
    }

    /// The answer; `None` when the service has stopped or did not answer.
    pub async fn call(&self, request: http::Request<SendBody>) -> Option<http::Response<SendBody>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(InternalRequest { request, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Frames of a body that wait for the other thread.
const FRAMES: usize = 4;

/// A body for another thread, and the task of this worker that feeds it. After `limit` bytes the body breaks off.
///
/// The task ends with the body, or when the other side has dropped its end.
pub fn hand_over(body: Body, limit: usize) -> (SendBody, impl Future<Output = ()>) {
    let (sender, receiver) = mpsc::channel(FRAMES);
    (StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync(), feed(body, limit, sender))
}

async fn feed(mut body: Body, mut limit: usize, sender: mpsc::Sender<Result<Frame<Bytes>, BodyError>>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        let Some(frame) = frame else { return };
        let frame = frame.and_then(|frame| match limit.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => {
                limit = rest;
                Ok(frame)
            }
            None => Err(BodyError::Protocol("the request is too large".to_owned())),
        });
        let ends = frame.is_err();
        if sender.send(frame).await.is_err() || ends {
            return;
        }
    }
}
