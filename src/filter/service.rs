//! Internal services: requests that the main thread answers, such as those of the registration API.
//!
//! A filter on a worker hands over the request with a body that may cross threads, and awaits the answer.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::{mpsc, oneshot};

use crate::http::body::BodyError;

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
