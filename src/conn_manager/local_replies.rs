//! `local_reply_config`: what a configuration makes of the replies that we give ourselves.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use crate::{
    access_log::{Filter, Purpose, Scope, SubstitutionFormat},
    config::{data_source, field::Field},
    http::{header_mutations::HeaderMutations, local_reply::LocalReply},
    proto::{UInt32Value, hcm},
    runtime::Runtime,
    stream_info::{HeaderCapture, StreamInfo},
};

/// A checked `LocalReplyConfig`.
#[derive(Debug, Default)]
pub(super) struct LocalReplies {
    mappers: Vec<Mapper>,
    format: Option<SubstitutionFormat>,
}

/// A checked `ResponseMapper`.
#[derive(Debug)]
struct Mapper {
    filter: Filter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    headers: HeaderMutations,
    format: Option<SubstitutionFormat>,
}

impl LocalReplies {
    /// Converts and checks; by default replies are left as they are.
    pub(super) fn from_proto(config: Option<&hcm::LocalReplyConfig>, field: Field<'_>) -> Option<LocalReplies> {
        let Some(config) = config else { return Some(LocalReplies::default()) };
        let hcm::LocalReplyConfig { mappers, body_format } = config;
        let mappers_field = field.key("mappers");
        let converted: Vec<_> = mappers
            .iter()
            .enumerate()
            .map(|(index, mapper)| Mapper::from_proto(mapper, mappers_field.index(index)))
            .collect();
        let format = match body_format {
            Some(format) => {
                Some(SubstitutionFormat::from_proto(format, Purpose::LocalReply, field.key("body_format"))?)
            }
            None => None,
        };
        Some(LocalReplies { mappers: converted.into_iter().collect::<Option<_>>()?, format })
    }

    /// Adds the headers of requests that filters and formats read.
    pub(super) fn capture(&self, capture: &mut HeaderCapture) {
        for mapper in &self.mappers {
            mapper.filter.capture(capture);
            mapper.headers.capture(capture);
        }
        let formats = self.mappers.iter().filter_map(|mapper| mapper.format.as_ref()).chain(&self.format);
        formats.for_each(|format| format.capture(capture));
    }

    /// Changes a reply: the first mapper whose filter lets the stream pass, then the format.
    pub(super) fn rewrite(&self, reply: &mut LocalReply, info: &mut StreamInfo, runtime: &Runtime) {
        if self.mappers.is_empty() && self.format.is_none() {
            return;
        }
        // Filters and formats read it.
        info.response_code = Some(reply.status.as_u16());
        let came = reply.body.clone();
        let mapper = self.mappers.iter().find(|mapper| mapper.filter.passes(info, runtime));
        if let Some(mapper) = mapper {
            if let Some(body) = &mapper.body {
                reply.body = body.clone();
            }
            mapper.headers.apply_to_response(&mut reply.headers, info);
            reply.status = mapper.status.unwrap_or(reply.status);
            info.response_code = Some(reply.status.as_u16());
        }
        let format = mapper.and_then(|mapper| mapper.format.as_ref()).or(self.format.as_ref());
        if let Some(format) = format {
            let mut body = Vec::new();
            let scope = Scope::of_response(info, &reply.headers).with_local_reply_body(&reply.body);
            format.render(&scope, &mut body);
            reply.body = body.into();
        }
        let absent = !reply.headers.contains_key(header::CONTENT_TYPE);
        if !reply.body.is_empty() && (absent || reply.body != came && format.is_some()) {
            let content_type = format.map_or("text/plain", SubstitutionFormat::content_type);
            if let Ok(content_type) = HeaderValue::from_str(content_type) {
                reply.headers.insert(header::CONTENT_TYPE, content_type);
            }
        }
    }
}

impl Mapper {
    fn from_proto(mapper: &hcm::ResponseMapper, field: Field<'_>) -> Option<Mapper> {
        let hcm::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = mapper;
        let filter = Filter::from_proto(field.required("filter", filter)?, field.key("filter"));
        let body = match body {
            Some(body) => Some(data_source::read(body, field.key("body"))?.into()),
            None => None,
        };
        let format = match body_format_override {
            Some(format) => {
                let field = field.key("body_format_override");
                Some(SubstitutionFormat::from_proto(format, Purpose::LocalReply, field)?)
            }
            None => None,
        };
        let nothing = field.key("headers_to_remove");
        Some(Mapper {
            filter: filter?,
            status: status_code.and_then(|UInt32Value { value }| StatusCode::from_u16(u16::try_from(value).ok()?).ok()),
            body,
            headers: HeaderMutations::from_proto((headers_to_add, field.key("headers_to_add")), (&[], nothing)),
            format,
        })
    }
}
