//! What clients see of the server.

use std::{cell::Cell, rc::Rc};

use h2::client;
use tokio::{io::duplex, sync::Notify, task::LocalSet};

use super::*;
use crate::http::local_reply::LocalReply;

/// The client's end of a connection, on which `service` answers.
async fn connect<R: Future<Output = Response> + 'static>(
    service: impl Fn(Request) -> R + 'static,
    graceful: impl Future<Output = ()> + 'static,
) -> client::SendRequest<Bytes> {
    let (near, far) = duplex(1 << 16);
    spawn_local(
        async move { serve(far, (&Options::default(), 1 << 16), &Watch::uncounted(), service, graceful).await },
    );
    let (client, connection) = client::handshake(near).await.unwrap();
    spawn_local(connection);
    client
}

fn request() -> http::Request<()> {
    http::Request::post("http://host/").body(()).unwrap()
}

#[tokio::test]
async fn a_client_sends_a_refused_request_again_on_a_new_connection() {
    let test = async {
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        let retired = Rc::new(Notify::new());
        let retire = Rc::clone(&retired);
        let old = move |_| {
            retire.notify_one();
            counted.set(counted.get() + 1);
            std::future::ready(LocalReply::handed_over().into_response(true))
        };
        let mut client = connect(old, async move { retired.notified().await }).await;
        let (answer, _) = client.send_request(request(), true).unwrap();
        let error = answer.await.unwrap_err();
        assert!(error.is_reset() && error.is_remote());
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
        // The client was told to go before its stream was reset, so that it does not try again here.
        assert!(client.send_request(request(), true).is_err());
        assert_eq!(calls.get(), 1);

        let new = |_| std::future::ready(Response::new(Body::empty()));
        let mut client = connect(new, std::future::pending()).await;
        let (answer, _) = client.send_request(request(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    };
    LocalSet::new().run_until(test).await;
}
