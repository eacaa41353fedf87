//! HTTP filters: what sees a request before the router answers it, and the response on its way back.
//!
//! A filter is one file and one row in `http_filters::FACTORIES`. Decode hooks run in order, encode hooks in reverse order and for
//! every filter of the chain, also for local replies. To wait, a hook awaits; to see or change a body, it wraps it.

use std::{fmt, future, rc::Rc, sync::Arc};

use http::{HeaderValue, header};

use super::{FactoryContext, LocalFuture, WorkerContext, timer::StreamTimer};
use crate::{
    config::field::Field,
    http::{Request, Response, authority, local_reply::LocalReply},
    proto,
    route::RouteRef,
    stream_info::{HeaderCapture, StreamInfo},
    upstream::ClusterState,
};

/// One request in progress, as filters and the router see it.
pub struct Stream {
    /// What has happened so far.
    pub info: StreamInfo,
    /// The route that matched; `None` until the connection manager has looked, and where none did.
    pub route: Option<RouteRef>,
    /// The worker that serves it.
    pub worker: Rc<WorkerContext>,
    /// Its deadlines.
    pub timer: Rc<StreamTimer>,
    /// Whether the client speaks gRPC, and failures are to be said so.
    pub is_grpc: bool,
    /// The cluster that the router chose.
    pub cluster: Option<Rc<ClusterState>>,
    /// What access logs print of the request; `None` when there are none.
    pub capture: Option<Rc<HeaderCapture>>,
    /// The redirects that were followed for it; `None` as long as there were none.
    pub redirects: Option<Box<Redirects>>,
    /// The request that follows a redirect: it goes through all filters in place of the response.
    pub redirected: Option<Request>,
    /// Connections upstream may tell of the client.
    pub tells_client: bool,
}

/// The redirects that were followed for one request of a client.
#[derive(Debug, Default)]
pub struct Redirects {
    /// How many.
    pub followed: u32,
    /// From which route to which, by their names.
    pub steps: Vec<(String, String)>,
}

impl Stream {
    /// Keeps what access logs print of the request, as it stands now: to be called where a request is sent on or answered.
    pub fn capture_request(&mut self, request: &Request) {
        if self.capture.is_some() {
            self.show_request(request);
        }
        if let Some(capture) = &self.capture {
            self.info.request_headers = HeaderCapture::take(&capture.request, request.headers());
            if capture.sizes {
                let info = &self.info;
                let authority = info.authority.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
                let path = info.path.as_ref().map_or("", |path| path.as_str());
                let pseudo = [
                    (":method", request.method().as_str()),
                    (":scheme", info.scheme),
                    (":authority", authority),
                    (":path", path),
                ];
                let host = request.headers().get(header::HOST).map_or(0, |host| "host".len() + host.len());
                self.info.request_headers_bytes = HeaderCapture::size(request.headers(), &pseudo) - host as u64;
            }
        }
    }

    /// Lets formats read the path and the authority of the request, as they stand now.
    pub fn show_request(&mut self, request: &Request) {
        self.info.authority = authority(request).and_then(|host| HeaderValue::from_str(host).ok());
        self.info.path = request.uri().path_and_query().cloned();
    }
}

/// What a filter decides on a request.
pub enum Decoded {
    /// The next filter's turn.
    Continue,
    /// This is the answer.
    Respond(Response),
    /// This is the answer, one of our own.
    Reply(LocalReply),
}

/// A filter on one stream.
pub trait HttpFilter {
    /// Sees the request: headers, and the body still to come.
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        let _ = (request, stream);
        Box::pin(async { Decoded::Continue })
    }

    /// Sees the response, whoever made it.
    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        let _ = (response, stream);
        Box::pin(async {})
    }
}

/// What a hook that never waits returns.
pub fn ready<'a, T: 'a>(value: T) -> LocalFuture<'a, T> {
    Box::pin(future::ready(value))
}

/// A filter's settings: immutable, shared by all workers.
pub trait HttpFilterConfig: Send + Sync + fmt::Debug {
    /// Whether the filter has anything to do with this request. One that has not costs the stream nothing more.
    fn applies_to(&self, request: &Request) -> bool {
        let _ = request;
        true
    }

    /// The filter for one stream.
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter>;
}

/// Where a filter stands when it is made for a stream.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its name in the chain, by which routes call it.
    pub name: &'a str,
    /// The route of the request, if it has one.
    pub route: Option<&'a RouteRef>,
    /// The worker that serves the stream.
    pub worker: &'a Rc<WorkerContext>,
}

impl Place<'_> {
    /// The settings that the most specific level of the route configuration has for this filter.
    #[must_use]
    pub fn settings<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let settings = self.route?.filter_settings(self.name)?;
        Arc::clone(settings).downcast().ok()
    }
}

/// Makes a filter's settings from its `typed_config`; `None` when an error has been reported.
pub type HttpFilterFromProto = fn(&proto::Any, Field<'_>, &FactoryContext<'_>) -> Option<Arc<dyn HttpFilterConfig>>;

/// A kind of filter.
#[derive(Debug, Clone, Copy)]
pub struct HttpFilterFactory {
    /// The name that configurations use by custom.
    pub name: &'static str,
    /// The message type of its `typed_config`, by which it is found.
    pub type_name: &'static str,
    /// Its conversion.
    pub from_proto: HttpFilterFromProto,
}
