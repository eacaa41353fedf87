//! `envoy.filters.http.grpc_http1_reverse_bridge`: gRPC for upstreams that speak plain HTTP.
//!
//! The upstream gets the request as another content type and, if so set, without the frame around its one message. Its answer becomes a
//! gRPC response: with a frame around the body, status 200, and the outcome in the trailers. Both bodies are collected.

use std::{mem, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};

use crate::{
    config::Field,
    filter::{
        DEFAULT_BUFFER_LIMIT, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream},
    },
    http::{Request, Response, body::Body, grpc, local_reply::LocalReply},
    proto::grpc_http1_reverse_bridge::{FilterConfig, FilterConfigPerRoute},
    route::FilterSettingsFactory,
    stream_info::grpc_status_of_http,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.grpc_http1_reverse_bridge",
    type_name: "envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
    from_proto: |any, field, _| Some(Arc::new(ReverseBridge::from_proto(&field.unpack(any)?, field)?)),
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: "envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfigPerRoute",
    from_proto: |any, field, _| {
        let FilterConfigPerRoute { disabled } = field.unpack(any)?;
        Some(Arc::new(RouteSettings { disabled }))
    },
};

/// A byte for the compression and four for the length.
const FRAME_HEADER: usize = 5;

/// The gRPC status of what went wrong here.
const UNKNOWN: u32 = 2;

/// A checked `FilterConfig`.
#[derive(Debug)]
struct ReverseBridge {
    content_type: HeaderValue,
    withholds_frames: bool,
}

#[derive(Debug)]
struct RouteSettings {
    disabled: bool,
}

impl ReverseBridge {
    fn from_proto(proto: &FilterConfig, field: Field<'_>) -> Option<ReverseBridge> {
        let FilterConfig { content_type, withhold_grpc_frames, response_size_header } = proto;
        field.unsupported("response_size_header", response_size_header);
        let Ok(content_type) = HeaderValue::from_str(content_type) else {
            field.key("content_type").error("not a valid header value");
            return None;
        };
        Some(ReverseBridge { content_type, withholds_frames: *withhold_grpc_frames })
    }
}

impl HttpFilterConfig for ReverseBridge {
    fn applies_to(&self, request: &Request) -> bool {
        grpc::is_grpc(request.headers()) && !http_body::Body::is_end_stream(request.body())
    }

    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let disabled = place.settings::<RouteSettings>().is_some_and(|settings| settings.disabled);
        Box::new(Bridged { bridge: self, disabled, content_type: None })
    }
}

/// The filter on one stream.
struct Bridged {
    bridge: Arc<ReverseBridge>,
    disabled: bool,
    /// The client's, once its request has been changed.
    content_type: Option<HeaderValue>,
}

impl HttpFilter for Bridged {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, _stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        Box::pin(self.change_request(request))
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            let Some(content_type) = self.content_type.take() else { return };
            if let Err(failure) = self.change_response(response, content_type).await {
                stream.info.response_code_details = failure.details.clone();
                *response = failure.into_response(true);
            }
        })
    }
}

impl Bridged {
    async fn change_request(&mut self, request: &mut Request) -> Decoded {
        if self.disabled {
            return Decoded::Continue;
        }
        let mut body = None;
        if self.bridge.withholds_frames {
            let whole = Limited::new(mem::take(request.body_mut()), DEFAULT_BUFFER_LIMIT).collect().await;
            let Ok(whole) = whole else {
                return Decoded::Reply(LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large"));
            };
            let mut bytes = whole.to_bytes();
            if bytes.len() < FRAME_HEADER {
                return Decoded::Reply(failure("grpc_bridge_data_too_small", "invalid request body".to_owned()));
            }
            body = Some(bytes.split_off(FRAME_HEADER));
        }
        let headers = request.headers_mut();
        self.content_type = headers.insert(header::CONTENT_TYPE, self.bridge.content_type.clone());
        headers.insert(header::ACCEPT, self.bridge.content_type.clone());
        if let Some(bytes) = body {
            if headers.contains_key(header::CONTENT_LENGTH) {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            }
            *request.body_mut() = Body::full(bytes);
        }
        Decoded::Continue
    }

    async fn change_response(&self, response: &mut Response, content_type: HeaderValue) -> Result<(), LocalReply> {
        let status = response.status();
        let found = response.headers().get(header::CONTENT_TYPE);
        if found != Some(&self.bridge.content_type) {
            let code = status.as_u16();
            let found = found.map(|found| String::from_utf8_lossy(found.as_bytes()));
            let message = match found {
                Some(found) => format!(
                    "envoy reverse bridge: upstream responded with unsupported content-type {found}, status code {code}"
                ),
                None => {
                    format!("envoy reverse bridge: upstream responded with no content-type header, status code {code}")
                }
            };
            return Err(failure("grpc_bridge_content_type_wrong", message));
        }
        let whole = Limited::new(mem::take(response.body_mut()), DEFAULT_BUFFER_LIMIT).collect().await;
        let Ok(whole) = whole else {
            return Err(LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "response_payload_too_large"));
        };
        let bytes = whole.to_bytes();
        let bytes = if self.bridge.withholds_frames { framed(&bytes) } else { bytes };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        if headers.contains_key(header::CONTENT_LENGTH) || bytes.len() == FRAME_HEADER {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        // An HTTP status of 200 is success here, whatever else it stands for.
        let outcome = if status == StatusCode::OK { 0 } else { grpc_status_of_http(status.as_u16()) };
        let trailers =
            HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from(outcome))]);
        let body = Full::new(bytes).map_err(|never| match never {});
        *response.body_mut() = Body::boxed(body.with_trailers(std::future::ready(Some(Ok(trailers)))));
        *response.status_mut() = StatusCode::OK;
        Ok(())
    }
}

/// What a gRPC client is told of a failure here; the HTTP status is 200 all the same.
fn failure(details: &'static str, message: String) -> LocalReply {
    LocalReply { body: message.into(), grpc_status: Some(UNKNOWN), ..LocalReply::new(StatusCode::OK, details) }
}

/// With the header of an uncompressed frame.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_length() {
        assert_eq!(&framed(b"ab")[..], b"\0\0\0\0\x02ab");
        assert_eq!(&framed(b"")[..], b"\0\0\0\0\0");
    }
}
