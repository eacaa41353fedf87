//! The gRPC service of a sample worker.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::demo::{ChatRequest, ChatResponse, SayRequest, SayResponse, echo_server::Echo};

/// Says back what it hears, and who says it.
#[derive(Clone, Debug)]
pub struct EchoService {
    /// The worker's id.
    pub worker: &'static str,
}

#[tonic::async_trait]
impl Echo for EchoService {
    type ChatStream = Pin<Box<dyn Stream<Item = Result<ChatResponse, Status>> + Send>>;

    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayResponse>, Status> {
        let SayRequest { text } = request.into_inner();
        Ok(Response::new(SayResponse { text, worker: self.worker.to_owned() }))
    }

    async fn chat(&self, request: Request<Streaming<ChatRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        let (worker, mut number) = (self.worker, 0);
        let answers = request.into_inner().map(move |heard| {
            number += 1;
            heard.map(|ChatRequest { text }| ChatResponse { text, worker: worker.to_owned(), number })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
