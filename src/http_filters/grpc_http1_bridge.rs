//! `envoy.filters.http.grpc_http1_bridge`: gRPC for clients of HTTP/1, which see no trailers.
//!
//! The response is collected, and what its trailers say moves to its headers: `grpc-status`, `grpc-message`, and status 503 where the call
//! failed.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, Version, header};
use http_body_util::{BodyExt, Limited};

use crate::{
    config::Field,
    filter::{
        DEFAULT_BUFFER_LIMIT, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, Response, body::Body, grpc, local_reply::LocalReply},
    proto::grpc_http1_bridge::Config,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.grpc_http1_bridge",
    type_name: "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
    from_proto: |any, field, cx| Some(Arc::new(Bridge::from_proto(&field.unpack(any)?, field, cx.buffer_limit))),
};

/// A checked `Config`.
#[derive(Clone, Copy, Debug)]
struct Bridge {
    /// The largest response, in bytes.
    limit: usize,
}

impl Bridge {
    fn from_proto(proto: &Config, field: Field<'_>, limit: usize) -> Bridge {
        let Config { upgrade_protobuf_to_grpc, ignore_query_parameters } = proto;
        field.unsupported("upgrade_protobuf_to_grpc", upgrade_protobuf_to_grpc);
        field.ignored(
            "ignore_query_parameters",
            ignore_query_parameters,
            "it counts with upgrade_protobuf_to_grpc only",
        );
        Bridge { limit: if limit == 0 { DEFAULT_BUFFER_LIMIT } else { limit } }
    }
}

impl HttpFilterConfig for Bridge {
    fn applies_to(&self, request: &Request) -> bool {
        request.version() < Version::HTTP_2 && grpc::is_grpc(request.headers())
    }

    fn new_stream(self: Arc<Self>, _place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(*self)
    }
}

impl HttpFilter for Bridge {
    fn decode_headers<'a>(
        &'a mut self,
        _request: &'a mut Request,
        _stream: &'a mut Stream,
    ) -> LocalFuture<'a, Decoded> {
        ready(Decoded::Continue)
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        Box::pin(self.collect(response, stream))
    }
}

impl Bridge {
    async fn collect(self, response: &mut Response, stream: &mut Stream) {
        if http_body::Body::is_end_stream(response.body()) {
            return;
        }
        let body = std::mem::take(response.body_mut());
        let Ok(collected) = Limited::new(body, self.limit).collect().await else {
            let details = "response_payload_too_large";
            stream.info.response_code_details = details.into();
            let reply = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, details);
            *response = LocalReply { body: "Internal Server Error".into(), ..reply }.into_response(stream.is_grpc);
            return;
        };
        if let Some(trailers) = collected.trailers() {
            for name in ["grpc-status", "grpc-message"] {
                if let Some(value) = trailers.get(name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            if trailers.contains_key("grpc-status") {
                stream.info.grpc_status = grpc::status(trailers);
                if stream.info.grpc_status != Some(0) {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
            }
        }
        let has_trailers = collected.trailers().is_some();
        let bytes = collected.to_bytes();
        if has_trailers {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        *response.body_mut() = Body::full(bytes);
    }
}
