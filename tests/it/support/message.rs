//! Requests and answers as the tests see them, the same for HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// A request that a test sends, or that an upstream received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// A `GET` of `path`.
pub fn get(path: &str) -> Request {
    Request::new(Method::GET, path)
}

/// A `POST` of `body` to `path`.
pub fn post(path: &str, body: impl Into<Bytes>) -> Request {
    Request { body: body.into(), ..Request::new(Method::POST, path) }
}

impl Request {
    pub fn new(method: Method, path: &str) -> Request {
        Request {
            method,
            uri: path.parse().unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            trailers: HeaderMap::new(),
        }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        append(&mut self.headers, name, value);
        self
    }

    #[must_use]
    pub fn host(self, name: &str) -> Request {
        self.header("host", name)
    }
}

/// An answer, complete.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The gRPC status, from the trailers or from an answer that is nothing but headers.
    pub fn grpc_status(&self) -> Option<&str> {
        self.trailers.get("grpc-status").or(self.headers.get("grpc-status"))?.to_str().ok()
    }
}

/// The values of a header, joined as RFC 9110 allows; empty if it is absent.
pub fn value(headers: &HeaderMap, name: &str) -> String {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
}

/// Adds a header line.
pub fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
}
