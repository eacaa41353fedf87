//! The HTTP filters of one stream: decode in order, then the router, encode in reverse order.

use std::{rc::Rc, sync::Arc};

use super::HttpConnectionManager;
use crate::{
    filter::{
        WorkerContext,
        http::{Decoded, HttpFilter, Place, Stream},
    },
    http::{Request, Response, local_reply::LocalReply},
    route::RouteRef,
};

/// The filters of one stream: those that have anything to do with its request. Without any it allocates nothing.
pub(super) struct FilterChain(Vec<Box<dyn HttpFilter>>);

impl FilterChain {
    pub(super) fn new(
        manager: &HttpConnectionManager,
        request: &Request,
        route: Option<&RouteRef>,
        worker: &Rc<WorkerContext>,
    ) -> FilterChain {
        let enabled = manager.filters.iter().filter(|filter| filter.is_enabled(route));
        let applies = enabled.filter(|filter| filter.config.applies_to(request));
        let place = |name| Place { name, route, worker };
        FilterChain(applies.map(|filter| Arc::clone(&filter.config).new_stream(place(&filter.name))).collect())
    }

    /// The answer: of the first filter that gives one, else of the router.
    pub(super) async fn decode(
        &mut self,
        manager: &HttpConnectionManager,
        request: &mut Request,
        stream: &mut Stream,
    ) -> Result<Response, LocalReply> {
        for filter in &mut self.0 {
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
        manager.router.route(request, stream).await
    }

    /// Every filter sees the response, whoever made it.
    pub(super) async fn encode(&mut self, response: &mut Response, stream: &mut Stream) {
        for filter in self.0.iter_mut().rev() {
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
