//! What a sample worker answers to a browser or curl.

use http::{HeaderValue, header};

use crate::http::{Request, Response, body::Body};

/// A page for `/`, and a line of text for everything else.
pub fn answer(worker: &str, request: &Request) -> Response {
    let (content, text) = if request.uri().path() == "/" {
        ("text/html; charset=utf-8", include_str!("page.html").replace("@WORKER@", worker))
    } else {
        let (method, path, version) = (request.method(), request.uri().path(), request.version());
        ("text/plain; charset=utf-8", format!("worker {worker:?} says hello: {method} {path} {version:?}\n"))
    };
    let mut response = Response::new(Body::full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    response
}
