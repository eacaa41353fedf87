//! What an endpoint is, and what it answers.

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{Admin, query::Query};
use crate::http::{Response, body::Body};

/// One page of the interface.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    pub(super) help: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) changes: Changes,
    pub(super) respond: fn(&Admin, &Query) -> Answer,
}

/// The format parameter of `/clusters` and `/listeners`.
pub(super) const FORMAT: Parameter = Parameter::one_of("format", "Format to use", &["text", "json"]);

/// When an endpoint changes the process, and so wants POST.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Changes {
    Never,
    WithParameters,
    Always,
}

/// What an endpoint understands beside its path.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// The values that it may have; any, if empty.
    pub(super) values: &'static [&'static str],
}

impl Endpoint {
    /// An endpoint that shows something.
    pub(super) const fn shows(path: &'static str, help: &'static str, respond: fn(&Admin, &Query) -> Answer) -> Self {
        Self { path, help, parameters: &[], changes: Changes::Never, respond }
    }

    /// An endpoint that does something.
    pub(super) const fn changes(path: &'static str, help: &'static str, act: fn(&Admin, &Query) -> Answer) -> Self {
        Self { changes: Changes::Always, ..Self::shows(path, help, act) }
    }

    /// Shows something, and changes it if parameters are given.
    pub(super) const fn changed_by(self, parameters: &'static [Parameter]) -> Self {
        Self { parameters, changes: Changes::WithParameters, ..self }
    }

    /// Understands `parameters`.
    pub(super) const fn with(self, parameters: &'static [Parameter]) -> Self {
        Self { parameters, ..self }
    }

    pub(super) fn is_change(&self, query: &Query) -> bool {
        match self.changes {
            Changes::Never => false,
            Changes::WithParameters => !query.is_empty(),
            Changes::Always => true,
        }
    }
}

impl Parameter {
    /// A parameter that may have any value.
    pub(super) const fn any(name: &'static str, help: &'static str) -> Self {
        Self { name, help, values: &[] }
    }

    /// A parameter that has one of `values`.
    pub(super) const fn one_of(name: &'static str, help: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, help, values }
    }
}

/// What an endpoint answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }

    pub(super) fn text(body: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=UTF-8", body: body.into() }
    }

    pub(super) fn json(body: String) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body }
    }

    pub(super) fn html(body: String) -> Self {
        Self { status: StatusCode::OK, content_type: "text/html; charset=UTF-8", body }
    }

    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self::text(why).with_status(StatusCode::BAD_REQUEST)
    }

    /// Refuses a parameter that Envoy knows, rather than doing something else than was asked.
    pub(super) fn not_implemented(parameter: &str) -> Self {
        Self::bad_request(format!("{parameter} is valid in Envoy, not implemented by Portreeve yet\n"))
    }

    /// The same as mere text, without a charset: so Envoy refuses parameters of `/config_dump`.
    pub(super) fn plain(self) -> Self {
        Self { content_type: "text/plain", ..self }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The response, with the headers that all answers have in common. Nothing else may be loaded by, or be done from
    /// the home page, and no page may show it in a frame.
    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::full(self.body));
        *response.status_mut() = self.status;
        let headers: [(HeaderName, &str); 5] = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache, max-age=0"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
            ),
            (header::SERVER, "portreeve"),
        ];
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
