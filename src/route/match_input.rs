//! What matcher trees of routes look at: request headers, and variables of the environment.

use std::{borrow::Cow, env};

use prost::Name;

use crate::{
    config::Field,
    matcher::{Input, RequestHead, RequestHeader},
    proto::{environment_variable, matcher::HttpRequestHeaderMatchInput, xds_core::TypedExtensionConfig},
    runtime::Runtime,
};

/// An input of a tree that chooses a route or a cluster.
#[derive(Debug)]
pub(super) enum RequestInput {
    Header(RequestHeader),
    /// The value that the variable had when the configuration was loaded.
    Environment(Option<String>),
}

/// What the inputs are read from.
pub(super) struct RequestData<'r> {
    pub(super) head: RequestHead<'r>,
    pub(super) runtime: &'r Runtime,
}

impl Input for RequestInput {
    type Data<'r> = RequestData<'r>;

    fn from_proto(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<RequestInput> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found == HttpRequestHeaderMatchInput::full_name() {
            let HttpRequestHeaderMatchInput { header_name } = field.unpack(any)?;
            return RequestHeader::of_input(&header_name, field).map(RequestInput::Header);
        }
        if found == environment_variable::Config::full_name() {
            let environment_variable::Config { name } = field.unpack(any)?;
            return Some(RequestInput::Environment(env::var(name).ok().filter(|value| !value.is_empty())));
        }
        field.error(format!("Route table can only match on request headers, saw {}", any.type_url));
        None
    }

    fn read<'d>(&'d self, data: &'d RequestData<'_>) -> Option<Cow<'d, [u8]>> {
        match self {
            RequestInput::Header(header) => header.read(data.head),
            RequestInput::Environment(value) => value.as_ref().map(|value| Cow::Borrowed(value.as_bytes())),
        }
    }

    fn runtime<'d>(data: &'d RequestData<'_>) -> &'d Runtime {
        data.runtime
    }
}
