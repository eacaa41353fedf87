//! What one level of a route configuration does to the headers of requests and responses.

use crate::{config::Field, http::header_mutations::HeaderMutations, proto::core::HeaderValueOption};

/// The four lists of headers to add and remove that weighted clusters, routes, virtual hosts and configurations have alike.
#[derive(Debug, Default)]
pub(super) struct Mutations {
    pub(super) request: HeaderMutations,
    pub(super) response: HeaderMutations,
}

/// The lists as a message has them.
pub(super) struct Lists<'a> {
    pub(super) request_headers_to_add: &'a [HeaderValueOption],
    pub(super) request_headers_to_remove: &'a [String],
    pub(super) response_headers_to_add: &'a [HeaderValueOption],
    pub(super) response_headers_to_remove: &'a [String],
}

impl Mutations {
    pub(super) fn from_proto(lists: &Lists<'_>, field: Field<'_>) -> Mutations {
        Mutations {
            request: HeaderMutations::from_proto(
                (lists.request_headers_to_add, field.key("request_headers_to_add")),
                (lists.request_headers_to_remove, field.key("request_headers_to_remove")),
            ),
            response: HeaderMutations::from_proto(
                (lists.response_headers_to_add, field.key("response_headers_to_add")),
                (lists.response_headers_to_remove, field.key("response_headers_to_remove")),
            ),
        }
    }
}
