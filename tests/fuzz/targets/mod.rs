//! The targets: what each parser must hold for any input. `fuzz/` runs the same ones under a fuzzer that sees which code an input
//! reaches.

mod connection;
mod headers;
mod http;
mod operator;
mod tls;
mod wire;

pub use connection::connection;
pub use headers::{grpc, header_matcher, path, request_headers, routes, uri_template};
pub use http::{http1, http2};
pub use operator::{access_log_format, configuration, runtime};
pub use tls::{client_hello, ocsp, pem, secrets};
pub use wire::proxy_protocol;
