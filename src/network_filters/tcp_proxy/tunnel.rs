//! A connection inside of an HTTP request (`tunneling_config`): its bytes are the body of a CONNECT or a POST, and of the answer.
//!
//! Nothing is read of the client before the host has agreed, so that another host can be tried.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Uri, header::HOST, uri::PathAndQuery};
use http_body::{Body as _, Frame};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf},
    sync::oneshot,
    time::Instant,
};

use crate::{
    access_log::{Format, Scope, Style},
    config::Field,
    http::{
        Request, Response,
        body::{Body, BodyError},
        header_mutations::HeaderMutations,
    },
    proto::tcp_proxy::tcp_proxy::TunnelingConfig,
    stream_info::StreamInfo,
};

/// Bytes per frame.
const CHUNK: usize = 16 * 1024;

/// A checked `TunnelingConfig`.
#[derive(Debug)]
pub(super) struct Tunnel {
    hostname: Format,
    /// The path of a POST; `None`: CONNECT.
    post: Option<PathAndQuery>,
    headers: HeaderMutations,
}

impl Tunnel {
    pub(super) fn from_proto(proto: &TunnelingConfig, field: Field<'_>) -> Option<Tunnel> {
        let TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            propagate_response_headers,
            post_path,
            propagate_response_trailers,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = proto;
        let why = "nothing reads the filter state that they would go to";
        field.ignored("propagate_response_headers", propagate_response_headers, why);
        field.ignored("propagate_response_trailers", propagate_response_trailers, why);
        field.unsupported("request_id_extension", request_id_extension);
        let why = "requests of tunnels have no id";
        field.ignored("request_id_header", request_id_header, why);
        field.ignored("request_id_metadata_key", request_id_metadata_key, why);
        field.ignored("formatters", formatters, "the commands that they add are not implemented");
        if !post_path.is_empty() && !use_post {
            field.key("post_path").error("is for use_post only");
        }
        let hostname = Format::parse(hostname).map_err(|error| field.key("hostname").error(error.to_string())).ok()?;
        let path = if post_path.is_empty() { "/" } else { post_path };
        let path = path.parse().map_err(|_| field.key("post_path").error("is not a path")).ok()?;
        let headers = HeaderMutations::from_proto(
            (headers_to_add, field.key("headers_to_add")),
            (&[], field.key("headers_to_add")),
        );
        Some(Tunnel { hostname, post: use_post.then_some(path), headers })
    }

    /// The request that asks for the tunnel, whose body is to be given what is to be read; `None` if its target is no authority.
    pub(super) fn request<R>(&self, info: &StreamInfo) -> Option<(Request, Upload<R>)>
    where
        R: AsyncRead + Unpin + 'static,
    {
        let mut host = Vec::new();
        self.hostname.render(&Scope::finished(info), Style::HeaderValue, &mut host);
        let host = HeaderValue::from_maybe_shared(Bytes::from(host)).ok()?;
        let authority = host.to_str().ok()?;
        let (method, uri) = match &self.post {
            None => (Method::CONNECT, authority.parse::<Uri>().ok()?),
            Some(path) => {
                let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path.clone());
                (Method::POST, uri.build().ok()?)
            }
        };
        let (give, given) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut request = Request::new(Body::boxed(FromClient { state: State::Waiting(given), _end: end }));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, host);
        self.headers.apply_to_request(request.headers_mut(), info);
        Some((request, Upload { give, ended }))
    }

    /// Whether the host has agreed.
    pub(super) fn is_open(&self, response: &Response) -> bool {
        if self.post.is_some() { response.status() == 200 } else { response.status().is_success() }
    }
}

/// The other end of a request's body.
pub(super) struct Upload<R> {
    give: oneshot::Sender<(ReadHalf<R>, Rc<Cell<Instant>>)>,
    ended: oneshot::Receiver<()>,
}

/// Carries bytes both ways until both ends have closed, or one has failed.
pub(super) async fn carry<C>(client: C, upload: Upload<C>, response: Response, last_active: &Rc<Cell<Instant>>)
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (read, mut write) = tokio::io::split(client);
    if upload.give.send((read, Rc::clone(last_active))).is_err() {
        return;
    }
    let mut body = pin!(response.into_body());
    let download = async {
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(io::Error::other)?;
            let Ok(data) = frame.into_data() else { continue };
            last_active.set(Instant::now());
            write.write_all(&data).await?;
            write.flush().await?;
        }
        write.shutdown().await
    };
    if download.await.is_ok() {
        // The body of the request is dropped when it has ended, or nobody wants it.
        let _ = upload.ended.await;
    }
}

/// What a client sends, as the body of a request.
struct FromClient<R> {
    state: State<R>,
    /// Dropped with the body.
    _end: oneshot::Sender<()>,
}

enum State<R> {
    /// For the host to agree.
    Waiting(oneshot::Receiver<(ReadHalf<R>, Rc<Cell<Instant>>)>),
    Reading(ReadHalf<R>, Rc<Cell<Instant>>),
    Done,
}

impl<R: AsyncRead + Unpin> http_body::Body for FromClient<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match &mut self.state {
                State::Waiting(given) => {
                    self.state = match ready!(Pin::new(given).poll(cx)) {
                        Ok((read, last_active)) => State::Reading(read, last_active),
                        Err(_) => State::Done,
                    };
                }
                State::Reading(read, last_active) => {
                    let mut bytes = BytesMut::zeroed(CHUNK);
                    let mut buffer = ReadBuf::new(&mut bytes);
                    let outcome = ready!(Pin::new(read).poll_read(cx, &mut buffer));
                    let count = buffer.filled().len();
                    last_active.set(Instant::now());
                    if outcome.is_err() {
                        self.state = State::Done;
                        return Poll::Ready(Some(Err(BodyError::Disconnect)));
                    }
                    if count == 0 {
                        self.state = State::Done;
                        continue;
                    }
                    bytes.truncate(count);
                    return Poll::Ready(Some(Ok(Frame::data(bytes.freeze()))));
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}
