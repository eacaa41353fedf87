//! `DirectResponseAction`: a route's own answer.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::{Context, Redirect};
use crate::{
    access_log::{Purpose, Scope, SubstitutionFormat},
    config::{Field, data_source},
    http::{Request, local_reply::LocalReply},
    proto,
    stream_info::StreamInfo,
};

/// A compiled `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Its body, before any format; empty if none is configured.
    pub body: Bytes,
    format: Option<SubstitutionFormat>,
    /// Where the answer says to look, for the statuses that say so.
    location: Option<Redirect>,
}

impl DirectResponse {
    pub(super) fn from_proto(
        proto: &proto::route::DirectResponseAction,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<DirectResponse> {
        let proto::route::DirectResponseAction { status, body, body_format } = proto;
        let format = body_format.as_ref();
        let format =
            format.map(|format| SubstitutionFormat::from_proto(format, Purpose::LocalReply, field.key("body_format")));
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
        let located = status == StatusCode::CREATED || status.is_redirection();
        Some(DirectResponse {
            status,
            body: body.into(),
            format: format.map_or(Some(None), |format| format.map(Some))?,
            location: located.then(Redirect::to_itself),
        })
    }

    /// The answer to a request.
    #[must_use]
    pub fn reply(&self, request: &Request, info: &StreamInfo) -> LocalReply {
        let mut reply = LocalReply::direct_response(self.status, self.body.clone());
        if let Some(format) = &self.format {
            let mut body = Vec::new();
            format.render(&Scope::of_request(info, request.headers()).with_local_reply_body(&self.body), &mut body);
            reply.body = body.into();
            if let Ok(content_type) = HeaderValue::from_str(format.content_type()) {
                reply.headers.insert(header::CONTENT_TYPE, content_type);
            }
        }
        let location = self.location.as_ref().map(|location| location.location(request, info));
        if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            reply.headers.insert(header::LOCATION, location);
        }
        reply
    }
}
