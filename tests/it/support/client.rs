//! Clients: one connection each, HTTP/1.1 or HTTP/2, plain or TLS.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::{
    Stream,
    message::{Answer, Request},
    upstream, within,
};

/// A connection to Portreeve; it closes with this value.
pub struct Client {
    protocol: Protocol,
    driver: JoinHandle<()>,
}

enum Protocol {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(h2::client::SendRequest<Bytes>),
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A plain connection.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = within("connecting", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A TLS connection to the server called `name`, and the protocol that ALPN chose.
pub async fn connect_tls(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<(Box<dyn Stream>, Option<String>)> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = within("TLS", TlsConnector::from(config).connect(name, connect(address).await)).await?;
    let alpn = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
    Ok((Box::new(stream), alpn))
}

/// Speaks HTTP/1.1 over a connection.
pub async fn http1(stream: impl Stream + 'static) -> Client {
    let (sender, connection) =
        within("HTTP/1.1", hyper::client::conn::http1::handshake(TokioIo::new(stream))).await.unwrap();
    let driver = tokio::spawn(async move {
        // What goes wrong shows at the request.
        let _ = connection.with_upgrades().await;
    });
    Client { protocol: Protocol::Http1(sender), driver }
}

/// Speaks HTTP/2 over a connection.
pub async fn http2(stream: impl Stream + 'static) -> Client {
    let (sender, connection) = within("HTTP/2", h2::client::handshake(stream)).await.unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Client { protocol: Protocol::Http2(sender), driver }
}

impl Client {
    /// Sends a request and reads the whole answer.
    #[track_caller]
    pub fn send(&mut self, request: Request) -> impl Future<Output = Answer> {
        let answer = within("an answer", self.try_send(request));
        async move { answer.await.unwrap() }
    }

    /// As `send`, where the connection or the stream may break off.
    pub async fn try_send(&mut self, request: Request) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        match &mut self.protocol {
            Protocol::Http1(sender) => {
                let (head, body) = sender.send_request(http1_request(request)).await?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned().unwrap_or_default();
                Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), trailers })
            }
            Protocol::Http2(sender) => {
                let mut sender = sender.clone().ready().await?;
                let (body, trailers) = (request.body.clone(), request.trailers.clone());
                let ends = body.is_empty() && trailers.is_empty();
                let (response, mut stream) = sender.send_request(http2_request(request), ends)?;
                if !ends {
                    stream.send_data(body, trailers.is_empty())?;
                    if !trailers.is_empty() {
                        stream.send_trailers(trailers)?;
                    }
                }
                let (head, body) = response.await?.into_parts();
                let (body, trailers) = upstream::collect(body).await?;
                Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
            }
        }
    }

    /// Begins an HTTP/2 exchange whose two directions the test drives itself.
    pub async fn open(&self, request: Request) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let Protocol::Http2(sender) = &self.protocol else { panic!("only HTTP/2 has streams") };
        let mut sender = within("a free stream", sender.clone().ready()).await.unwrap();
        sender.send_request(http2_request(request), false).unwrap()
    }

    /// Asks for another protocol on an HTTP/2 stream, by extended CONNECT.
    pub async fn extended(
        &self,
        request: Request,
        protocol: &str,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let Protocol::Http2(sender) = &self.protocol else { panic!("only HTTP/2 has streams") };
        let mut sender = within("a free stream", sender.clone().ready()).await.unwrap();
        let mut message = http2_request(Request { method: Method::CONNECT, ..request });
        message.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        sender.send_request(message, false).unwrap()
    }

    /// Waits until the other side has closed the connection.
    pub async fn closed(mut self) {
        within("the end of the connection", &mut self.driver).await.unwrap();
    }

    /// Whether the HTTP/2 server lets clients open WebSockets on streams (RFC 8441). True only once its settings are here.
    pub fn extended_connect(&self) -> bool {
        matches!(&self.protocol, Protocol::Http2(sender) if sender.is_extended_connect_protocol_enabled())
    }
}

/// Asks for a protocol switch on a connection of its own: the answer's head as text, and the connection from there on.
pub async fn upgrade<S: Stream>(mut stream: S, path: &str, headers: &str) -> (String, S) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the answer's head", stream.read_u8()).await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

/// Writes raw bytes, and reads what comes back until the other side closes.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(address).await;
    stream.write_all(bytes.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    // A connection reset after the answer is as good an end as any.
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn http1_request(request: Request) -> http::Request<Full<Bytes>> {
    let Request { method, uri, mut headers, body, trailers: _ } = request;
    headers.entry(HOST).or_insert(HeaderValue::from_static("test"));
    let mut message = http::Request::new(Full::new(body));
    *message.method_mut() = method;
    *message.uri_mut() = uri;
    *message.headers_mut() = headers;
    message
}

fn http2_request(request: Request) -> http::Request<()> {
    let Request { method, uri, mut headers, .. } = request;
    let authority = headers.remove(HOST).unwrap_or(HeaderValue::from_static("test"));
    let mut message = http::Request::new(());
    *message.method_mut() = method;
    *message.uri_mut() = Uri::builder()
        .scheme("http")
        .authority(authority.as_bytes())
        .path_and_query(uri.path_and_query().expect("a path").clone())
        .build()
        .unwrap();
    *message.headers_mut() = headers;
    message
}

/// A gRPC message in its frame, uncompressed.
pub fn grpc_frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat().into()
}
