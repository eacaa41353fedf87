//! A WebSocket server that says back what it hears (RFC 6455), just enough for the demo.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::mpsc, task::spawn_local};
use tokio_stream::wrappers::ReceiverStream;

use crate::http::{Request, Response, body::Body};

/// Joined with the client's key to prove that the server speaks the protocol (RFC 6455 section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest frame.
const MAX_PAYLOAD: u64 = 1 << 20;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Switches protocols, and then answers every frame until the client closes.
pub fn accept(mut request: Request) -> Response {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    let accept = HeaderValue::try_from(STANDARD.encode(proof)).expect("invariant: Base64 is visible ASCII");
    let (sender, frames) = mpsc::channel(16);
    let incoming = std::mem::take(request.body_mut());
    spawn_local(echo(Frames { incoming, buffer: BytesMut::new() }, sender));

    let frames = ReceiverStream::new(frames);
    let frames = tokio_stream::StreamExt::map(frames, |bytes| Ok(http_body::Frame::data(bytes)));
    let mut response = Response::new(Body::boxed(StreamBody::new(frames)));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn echo(mut frames: Frames, sender: mpsc::Sender<Bytes>) {
    while let Some(Frame { first, payload }) = frames.next().await {
        let answer = if first & 0x0f == PING { first & 0xf0 | PONG } else { first };
        let gone = first & 0x0f != PONG && sender.send(encode(answer, &payload)).await.is_err();
        if gone || first & 0x0f == CLOSE {
            return;
        }
    }
}

/// One frame, unmasked.
struct Frame {
    /// Final bit and opcode.
    first: u8,
    payload: BytesMut,
}

/// The frames of a client.
struct Frames {
    incoming: Body,
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; None when the client has gone or does not speak the protocol.
    async fn next(&mut self) -> Option<Frame> {
        self.fill(2).await?;
        let (first, second) = (self.buffer[0], self.buffer[1]);
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.fill(2 + extended + 4).await?;
        self.buffer.advance(2);
        let length = match extended {
            2 => u64::from(self.buffer.get_u16()),
            8 => self.buffer.get_u64(),
            _ => u64::from(second & 0x7f),
        };
        // Clients mask every frame.
        if second & 0x80 == 0 || length > MAX_PAYLOAD {
            return None;
        }
        let mask = self.buffer.get_u32().to_be_bytes();
        let length = usize::try_from(length).ok()?;
        self.fill(length).await?;
        let mut payload = self.buffer.split_to(length);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Some(Frame { first, payload })
    }

    /// Reads until the buffer holds this many bytes.
    async fn fill(&mut self, length: usize) -> Option<()> {
        while self.buffer.len() < length {
            let frame = self.incoming.frame().await?.ok()?;
            self.buffer.extend_from_slice(frame.data_ref()?);
        }
        Some(())
    }
}

fn encode(first: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 10);
    frame.put_u8(first);
    match payload.len() {
        length @ 0..126 => frame.put_u8(length.to_le_bytes()[0]),
        length @ 126..=0xffff => {
            frame.put_u8(126);
            frame.put_slice(&length.to_be_bytes()[size_of::<usize>() - 2..]);
        }
        length => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answers(sent: &'static [u8]) -> Vec<Vec<u8>> {
        let (sender, mut receiver) = mpsc::channel(16);
        let frames = Frames { incoming: Body::full(sent), buffer: BytesMut::new() };
        echo(frames, sender).await;
        let mut answers = Vec::new();
        while let Some(answer) = receiver.recv().await {
            answers.push(answer.to_vec());
        }
        answers
    }

    #[tokio::test]
    async fn frames_come_back_unmasked_and_pings_as_pongs() {
        let sent = b"\x81\x82\x01\x02\x03\x04ik\x89\x80\0\0\0\0\x88\x80\0\0\0\0\x81\x80\0\0\0\0";
        assert_eq!(answers(sent).await, [b"\x81\x02hi".to_vec(), b"\x8a\0".to_vec(), b"\x88\0".to_vec()]);
    }

    #[tokio::test]
    async fn a_client_that_does_not_mask_is_dropped() {
        assert!(answers(b"\x81\x02hi\0\0\0\0").await.is_empty());
    }

    #[test]
    fn lengths_have_three_forms() {
        assert_eq!(encode(0x82, &[0; 125])[..2], [0x82, 125]);
        assert_eq!(encode(0x82, &[0; 300])[..4], [0x82, 126, 1, 44]);
        assert_eq!(encode(0x82, &vec![0; 65536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
