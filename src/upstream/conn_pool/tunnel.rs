//! A CONNECT request that ends here (`connect_config`): its body is the bytes for a host, and the response's body the bytes from it.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Response as Head, StatusCode, Version};
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf, split},
    task::{AbortHandle, spawn_local},
    time::Instant,
};

use super::{TcpConnection, UpstreamAttempt, UpstreamFailure};
use crate::{
    http::{
        Request, Response,
        body::{Body, BodyError},
        upgrade::write_all,
    },
    upstream::HostRef,
};

/// Bytes per read.
const CHUNK: usize = 16 * 1024;

/// Connects to the host; the response says that the client may begin.
pub(super) async fn open(
    host: &HostRef,
    request: &mut Request,
    attempt: &UpstreamAttempt,
) -> Result<Response, UpstreamFailure> {
    attempt.connect_started.set(Some(Instant::now()));
    let connection = TcpConnection::connect(host, attempt.client.as_deref()).await?;
    let now = Instant::now();
    for moment in [&attempt.connected, &attempt.first_byte_sent, &attempt.headers_received] {
        moment.set(Some(now));
    }
    let (reader, writer) = split(connection);
    let upload = spawn_local(write_all::<WriteHalf<TcpConnection>>(std::mem::take(request.body_mut()), writer));
    let body = HostBytes { reader, upload: upload.abort_handle(), ended: false };
    let mut response = Head::new(Body::boxed(body));
    *response.status_mut() = StatusCode::OK;
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// The bytes from the host. Dropped, the tunnel ends in both directions.
struct HostBytes {
    reader: ReadHalf<TcpConnection>,
    upload: AbortHandle,
    ended: bool,
}

impl http_body::Body for HostBytes {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Made for each read, so that a quiet tunnel holds no buffer.
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match ready!(pin!(self.reader.read_buf(&mut buffer)).poll(cx)) {
            Ok(0) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => Poll::Ready(Some(Ok(Frame::data(buffer.freeze())))),
            Err(_) => Poll::Ready(Some(Err(BodyError::Disconnect))),
        }
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        self.upload.abort();
    }
}
