//! The upstream of the peers bench: answers as fast as one thread can, HTTP/1.1 on one port and HTTP/2 on another.
//!
//! `upstream HTTP1_PORT HTTP2_PORT`. The path's last segment says what to answer: `0`, `1k` or `1m` bytes, or `headers` for
//! the request's header lines, by which the bench checks that every proxy does the same work. Over HTTP/2 every answer ends
//! with gRPC's trailers.

use std::{fmt::Write as _, io};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{LocalSet, spawn_local},
};

fn main() -> io::Result<()> {
    let ports: Vec<u16> = std::env::args().skip(1).filter_map(|port| port.parse().ok()).collect();
    let [http1, http2] = ports[..] else { return Err(io::Error::other("usage: upstream HTTP1_PORT HTTP2_PORT")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (http1, http2) = (listen(http1)?, listen(http2)?);
        spawn_local(async move {
            loop {
                if let Ok((stream, _)) = http1.accept().await {
                    // A peer that goes away is no error here.
                    spawn_local(async move { serve_http1(stream).await.ok() });
                }
            }
        });
        loop {
            if let Ok((stream, _)) = http2.accept().await {
                spawn_local(async move { serve_http2(stream).await.ok() });
            }
        }
    })
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    socket.listen(4096)
}

async fn serve_http1(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answers = Answers::new();
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.advance(end + 4);
        let (line, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
        read_body(&mut stream, &mut buffer, headers).await?;
        let body = answers.body(line.split(' ').nth(1).unwrap_or("/"), || headers.to_owned());
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: upstream\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if body.len() < 4096 {
            stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        } else {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
    }
}

/// Reads past the body that these header lines announce.
async fn read_body(stream: &mut TcpStream, buffer: &mut BytesMut, headers: &str) -> io::Result<()> {
    let value = |name: &str| {
        headers.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    if value("transfer-encoding").is_some() {
        while !buffer.ends_with(b"0\r\n\r\n") {
            // Only the last bytes tell whether it is over.
            let keep = buffer.len().saturating_sub(4);
            buffer.advance(keep);
            if stream.read_buf(buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.clear();
        return Ok(());
    }
    let mut left: usize = value("content-length").and_then(|(_, length)| length.trim().parse().ok()).unwrap_or(0);
    loop {
        let part = left.min(buffer.len());
        buffer.advance(part);
        left -= part;
        if left == 0 || stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn serve_http2(stream: TcpStream) -> Result<(), h2::Error> {
    stream.set_nodelay(true).map_err(|_| h2::Reason::INTERNAL_ERROR)?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await?;
    let answers = Answers::new();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let answers = answers.clone();
        spawn_local(async move {
            let (head, mut body) = request.into_parts();
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            let bytes = answers.body(head.uri.path(), || header_lines(&head.headers));
            let mut answer = http::Response::new(());
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            answer.headers_mut().insert("server", HeaderValue::from_static("upstream"));
            let mut stream = respond.send_response(answer, false)?;
            stream.send_data(bytes, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers)
        });
    }
    Ok(())
}

fn header_lines(headers: &HeaderMap) -> String {
    headers.iter().fold(String::new(), |mut lines, (name, value)| {
        // Writing to a string does not fail.
        let _ = write!(lines, "{name}: {}\r\n", value.to_str().unwrap_or("?"));
        lines
    })
}

/// The bodies there are.
#[derive(Clone)]
struct Answers {
    kilobyte: Bytes,
    megabyte: Bytes,
}

impl Answers {
    fn new() -> Answers {
        Answers { kilobyte: vec![b'x'; 1024].into(), megabyte: vec![b'x'; 1 << 20].into() }
    }

    fn body(&self, path: &str, headers: impl FnOnce() -> String) -> Bytes {
        match path.rsplit('/').next() {
            Some("1k") => self.kilobyte.clone(),
            Some("1m") => self.megabyte.clone(),
            Some("headers") => headers().into(),
            _ => Bytes::new(),
        }
    }
}
