//! A filter that a matcher tree decides on (`ExtensionWithMatcher`), and `envoy.filters.http.composite`, for which the tree names the filter.
//!
//! The tree is asked when the request's headers are there, and once more with the response's if it could not decide without them. Its
//! action either skips the filter or, for a composite, says which filters run in its place.

use std::{borrow::Cow, cell::Cell, rc::Rc, sync::Arc};

use http::HeaderMap;
use prost::Name;

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, Response, copy_head},
    matcher::{Input, KeepMatching, MatchTree, RequestHead, RequestHeader},
    proto::{
        Any,
        composite::{Composite as CompositeProto, ExecuteFilterAction, FilterChainConfiguration},
        match_action::SkipFilter,
        matcher::{HttpRequestHeaderMatchInput, HttpResponseHeaderMatchInput},
        matching::ExtensionWithMatcher,
        xds_core::TypedExtensionConfig as XdsExtension,
    },
    runtime::{Runtime, RuntimeFraction},
    stats,
};

/// The row of a filter with a matcher.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.match_delegate",
    type_name: "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
    from_proto: |any, field, cx| {
        let delegate = Delegate::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(delegate))
    },
};

/// The row of the filter that others stand in for.
pub const COMPOSITE: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.composite",
    type_name: "envoy.extensions.filters.http.composite.v3.Composite",
    from_proto: |any, field, _| {
        let CompositeProto { named_filter_chains, matcher } = field.unpack(any)?;
        field.unsupported("named_filter_chains", &named_filter_chains);
        field.unsupported("matcher", &matcher);
        Some(Arc::new(Composite))
    },
};

/// A filter and the tree that decides on it.
#[derive(Debug)]
struct Delegate {
    filter: Arc<dyn HttpFilterConfig>,
    tree: MatchTree<MessageInput, Action>,
    stats: CompositeStats,
}

stats::declare! {
    /// Of the composites of a connection manager, under `http.<stat_prefix>.composite.`
    struct CompositeStats {
        /// Requests for which other filters ran in place of the composite.
        filter_delegation_success: Counter,
    }
}

/// What a tree says.
#[derive(Debug)]
enum Action {
    Skip,
    Execute(Execution),
}

/// Filters that run in place of a composite, for a share of the requests.
#[derive(Debug)]
struct Execution {
    filters: Vec<Arc<dyn HttpFilterConfig>>,
    share: Option<RuntimeFraction>,
}

impl Delegate {
    fn from_proto(proto: &ExtensionWithMatcher, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<Delegate> {
        let ExtensionWithMatcher { matcher, xds_matcher, extension_config } = proto;
        field.unsupported("matcher", matcher);
        let extension = field.required("extension_config", extension_config)?;
        let tree = field.required("xds_matcher", xds_matcher)?;
        let any = extension.typed_config.as_ref();
        let is_composite = any.is_some_and(|any| any.type_url.ends_with(COMPOSITE.type_name));
        let filter = nested(any, field.key("extension_config"), cx);
        let mut convert = |action: &XdsExtension, field: Field<'_>| Action::from_proto(action, field, cx, is_composite);
        let tree = MatchTree::from_proto(tree, field.key("xds_matcher"), KeepMatching::Refused, &mut convert);
        let stats = CompositeStats::new(&cx.filter_stats("composite"));
        Some(Delegate { filter: filter?, tree: tree?, stats })
    }
}

/// Converts a filter that stands inside of another's settings.
fn nested(any: Option<&Any>, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<Arc<dyn HttpFilterConfig>> {
    let Some(any) = any else {
        field.key("typed_config").error("is required");
        return None;
    };
    let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
    let field = field.key("typed_config");
    let Some(factory) = cx.http_filters.iter().find(|factory| factory.type_name == type_name) else {
        field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve yet"));
        return None;
    };
    (factory.from_proto)(any, field, cx)
}

impl Action {
    fn from_proto(
        proto: &XdsExtension,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        is_composite: bool,
    ) -> Option<Action> {
        let XdsExtension { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name == SkipFilter::full_name() {
            return Some(Action::Skip);
        }
        if type_name != ExecuteFilterAction::full_name() || !is_composite {
            field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve here yet"));
            return None;
        }
        let ExecuteFilterAction { typed_config, dynamic_config, filter_chain, filter_chain_name, sample_percent } =
            field.unpack(any)?;
        field.unsupported("dynamic_config", &dynamic_config);
        field.unsupported("filter_chain_name", &filter_chain_name);
        let chain = filter_chain.map(|FilterChainConfiguration { typed_config }| typed_config).unwrap_or_default();
        let chain_field = field.key("filter_chain");
        let list = chain_field.key("typed_config");
        let alone = typed_config.iter().map(|filter| (filter, field.key("typed_config")));
        let chain = chain.iter().enumerate().map(|(index, filter)| (filter, list.index(index)));
        let filters = alone.chain(chain).map(|(filter, field)| nested(filter.typed_config.as_ref(), field, cx));
        Some(Action::Execute(Execution {
            filters: filters.collect::<Option<_>>()?,
            share: sample_percent.as_ref().map(RuntimeFraction::from_proto),
        }))
    }
}

/// What trees of HTTP filters look at.
#[derive(Debug)]
enum MessageInput {
    Request(RequestHeader),
    Response(RequestHeader),
}

/// What the inputs are read from.
struct Messages<'r> {
    request: RequestHead<'r>,
    response: Option<&'r HeaderMap>,
    runtime: &'r Runtime,
    /// Whether the response was asked for before it was there.
    undecided: Cell<bool>,
}

impl Input for MessageInput {
    type Data<'r> = Messages<'r>;

    fn from_proto(proto: &XdsExtension, field: Field<'_>) -> Option<MessageInput> {
        let XdsExtension { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name == HttpRequestHeaderMatchInput::full_name() {
            let HttpRequestHeaderMatchInput { header_name } = field.unpack(any)?;
            return RequestHeader::of_input(&header_name, field).map(MessageInput::Request);
        }
        if type_name == HttpResponseHeaderMatchInput::full_name() {
            let HttpResponseHeaderMatchInput { header_name } = field.unpack(any)?;
            return RequestHeader::of_input(&header_name, field).map(MessageInput::Response);
        }
        field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve here yet"));
        None
    }

    fn read<'d>(&'d self, data: &'d Messages<'_>) -> Option<Cow<'d, [u8]>> {
        match (self, data.response) {
            (MessageInput::Request(header), _) => header.read(data.request),
            (MessageInput::Response(header), Some(response)) => header.read(data.request.with_headers(response)),
            (MessageInput::Response(_), None) => {
                data.undecided.set(true);
                None
            }
        }
    }

    fn runtime<'d>(data: &'d Messages<'_>) -> &'d Runtime {
        data.runtime
    }
}

impl HttpFilterConfig for Delegate {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let filter = Arc::clone(&self.filter).new_stream(place);
        Box::new(Delegated { delegate: self, name: place.name.into(), filters: vec![filter], request: None })
    }
}

/// The filter on one stream.
struct Delegated {
    delegate: Arc<Delegate>,
    name: Rc<str>,
    /// Those that run; none if they are skipped.
    filters: Vec<Box<dyn HttpFilter>>,
    /// The head of the request as long as the tree has not decided.
    request: Option<Request>,
}

impl HttpFilter for Delegated {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        Box::pin(async move {
            if self.ask(request, None, stream) {
                self.request = Some(copy_head(request));
            }
            for filter in &mut self.filters {
                match filter.decode_headers(request, stream).await {
                    Decoded::Continue => {}
                    answer => return answer,
                }
            }
            Decoded::Continue
        })
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            if let Some(request) = self.request.take() {
                self.ask(&request, Some(response.headers()), stream);
            }
            for filter in self.filters.iter_mut().rev() {
                filter.encode_headers(response, stream).await;
            }
        })
    }
}

impl Delegated {
    /// Does what the tree says; true if it cannot say yet.
    fn ask(&mut self, request: &Request, response: Option<&HeaderMap>, stream: &Stream) -> bool {
        let runtime = stream.worker.runtime();
        let messages = Messages { request: request.into(), response, runtime: &runtime, undecided: Cell::new(false) };
        let delegate = Arc::clone(&self.delegate);
        match delegate.tree.find(&messages) {
            None => return messages.undecided.get(),
            Some(Action::Skip) => self.filters.clear(),
            Some(Action::Execute(execution)) => {
                let random = stream.worker.random.next_u64();
                if execution.share.as_ref().is_none_or(|share| share.holds(&runtime, random)) {
                    let place = Place { name: &self.name, route: stream.route.as_ref(), worker: &stream.worker };
                    let filters = execution.filters.iter().filter(|filter| filter.applies_to(request));
                    delegate.stats.filter_delegation_success.inc();
                    self.filters = filters.map(|filter| Arc::clone(filter).new_stream(place)).collect();
                }
            }
        }
        false
    }
}

/// By itself it does nothing.
#[derive(Debug)]
struct Composite;

impl HttpFilterConfig for Composite {
    fn new_stream(self: Arc<Self>, _place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Nothing)
    }
}

/// A filter that lets everything pass.
struct Nothing;

impl HttpFilter for Nothing {
    fn decode_headers<'a>(
        &'a mut self,
        _request: &'a mut Request,
        _stream: &'a mut Stream,
    ) -> LocalFuture<'a, Decoded> {
        ready(Decoded::Continue)
    }
}
