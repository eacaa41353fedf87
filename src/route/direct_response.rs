//! `DirectResponseAction`: a route's own answer.

use bytes::Bytes;
use http::StatusCode;

use super::Context;
use crate::{
    config::{Field, data_source},
    proto,
};

/// A compiled `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Empty if none is configured.
    pub body: Bytes,
}

impl DirectResponse {
    pub(super) fn from_proto(
        proto: &proto::route::DirectResponseAction,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<DirectResponse> {
        let proto::route::DirectResponseAction { status, body, body_format } = proto;
        field.ignored("body_format", body_format, "the body is sent as it is");
        let status = u16::try_from(*status).ok().and_then(|code| StatusCode::from_u16(code).ok())?;
        let body = match body {
            Some(body) => data_source::read(body, field.key("body"))?,
            None => Vec::new(),
        };
        if body.len() > context.max_direct_response_body {
            field.key("body").error(format!(
                "has {} bytes, more than max_direct_response_body_size_bytes, {}",
                body.len(),
                context.max_direct_response_body
            ));
        }
        Some(DirectResponse { status, body: body.into() })
    }
}
