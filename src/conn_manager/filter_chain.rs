//! The HTTP filters of one stream: decode in order, then the router, encode in reverse order.

use std::{rc::Rc, sync::Arc};

use super::{ConfiguredChain, HttpConnectionManager};
use crate::{
    filter::{
        WorkerContext,
        http::{Decoded, HttpFilter, Place, Stream},
    },
    http::{Request, Response, local_reply::LocalReply},
    route::RouteRef,
    router::Router,
};

/// The filters of one stream: those that have anything to do with its request. Without any it allocates nothing.
pub(super) struct FilterChain<'m> {
    filters: Vec<Box<dyn HttpFilter>>,
    router: &'m Router,
}

impl<'m> FilterChain<'m> {
    pub(super) fn new(
        manager: &'m HttpConnectionManager,
        request: &Request,
        route: Option<&RouteRef>,
        worker: &Rc<WorkerContext>,
    ) -> FilterChain<'m> {
        let ConfiguredChain { filters, router } = manager.chain_of(request);
        let enabled = filters.iter().filter(|filter| filter.is_enabled(route));
        let applies = enabled.filter(|filter| filter.config.applies_to(request));
        let place = |name| Place { name, route, worker };
        let filters = applies.map(|filter| Arc::clone(&filter.config).new_stream(place(&filter.name))).collect();
        FilterChain { filters, router }
    }

    /// The answer: of the first filter that gives one, else of the router.
    pub(super) async fn decode(&mut self, request: &mut Request, stream: &mut Stream) -> Result<Response, LocalReply> {
        for filter in &mut self.filters {
            match filter.decode_headers(request, stream).await {
                Decoded::Continue => {}
                Decoded::Respond(response) => {
                    end_here(request, stream);
                    return Ok(response);
                }
                Decoded::Reply(reply) => {
                    end_here(request, stream);
                    return Err(reply);
                }
            }
        }
        self.router.route(request, stream).await
    }

    /// Every filter sees the response, whoever made it.
    pub(super) async fn encode(&mut self, response: &mut Response, stream: &mut Stream) {
        for filter in self.filters.iter_mut().rev() {
            filter.encode_headers(response, stream).await;
        }
    }
}

/// A filter has answered: logs tell where the request would have gone.
fn end_here(request: &Request, stream: &mut Stream) {
    stream.capture_request(request);
    if let Some(cluster) = stream.route.as_ref().and_then(|route| route.cluster(request)) {
        stream.info.upstream_cluster = Some(cluster.into());
    }
}
