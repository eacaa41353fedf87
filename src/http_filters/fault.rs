//! `envoy.filters.http.fault`: keeps requests waiting, or answers them with errors, to see how others bear it.
//!
//! Shares, times and statuses come from the settings, from the runtime (whose keys the settings may name), or from the request's
//! headers, where the settings leave it to them. The most specific settings count as a whole.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream},
    },
    http::{Request, local_reply::LocalReply},
    matcher::HeaderMatcher,
    proto::{
        common_fault::{FaultDelay, fault_delay::FaultDelaySecifier},
        fault::{FaultAbort, HttpFault, fault_abort::ErrorType},
        type_v3,
    },
    route::FilterSettingsFactory,
    runtime::{FractionalPercent, Runtime},
    stats,
    stream_info::ResponseFlags,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.fault",
    type_name: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    from_proto: |any, field, cx| {
        let settings = Arc::new(Settings::from_proto(&field.unpack(any)?, field)?);
        Some(Arc::new(Fault::new(settings, cx)))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, _| Some(Arc::new(Settings::from_proto(&field.unpack(any)?, field)?)),
};

#[derive(Debug)]
struct Fault {
    settings: Arc<Settings>,
    stats: FaultStats,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.fault.`
    struct FaultStats {
        /// Requests that were answered.
        aborts_injected: Counter,
        /// Requests that were kept waiting.
        delays_injected: Counter,
        /// Requests that were left alone because of `max_active_faults`.
        faults_overflow: Counter,
        /// Requests that wait, or are being answered.
        active_faults: Gauge,
    }
}

/// A checked `HTTPFault`.
#[derive(Debug)]
struct Settings {
    delay: Option<Delay>,
    abort: Option<Abort>,
    /// Only requests to this cluster; empty for all.
    upstream_cluster: String,
    headers: Vec<HeaderMatcher>,
    /// Only requests that say that they come from one of these; empty for all.
    downstream_nodes: Vec<String>,
    max_active: Option<u64>,
    max_active_key: String,
}

#[derive(Debug)]
struct Delay {
    share: Share,
    /// `None`: as `x-envoy-fault-delay-request` says, in milliseconds.
    duration: Option<Duration>,
    duration_key: String,
}

#[derive(Debug)]
struct Abort {
    share: Share,
    error: AbortError,
    http_key: String,
    grpc_key: String,
    body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AbortError {
    Http(u64),
    Grpc(u64),
    /// As `x-envoy-fault-abort-request` says, or `x-envoy-fault-abort-grpc-request`.
    Header,
}

/// How many requests are meant. A header can make it fewer where headers decide.
#[derive(Debug)]
struct Share {
    proto: type_v3::FractionalPercent,
    key: String,
    header: Option<&'static str>,
}

impl Settings {
    fn from_proto(proto: &HttpFault, field: Field<'_>) -> Option<Settings> {
        let HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = proto;
        let slow = "responses are not slowed down";
        field.ignored("response_rate_limit", response_rate_limit, slow);
        field.ignored("response_rate_limit_percent_runtime", response_rate_limit_percent_runtime, slow);
        let why = "there are no statistics by the client's cluster";
        field.ignored("disable_downstream_cluster_stats", disable_downstream_cluster_stats, why);
        field.ignored("filter_metadata", filter_metadata, "faults are not told in the metadata");
        let key = |key: &str, default: &str| if key.is_empty() { default.to_owned() } else { key.to_owned() };
        let list = field.key("headers");
        let headers = headers.iter().enumerate();
        let headers = headers.map(|(index, header)| HeaderMatcher::from_proto(header, list.index(index)));
        let delay = match delay {
            Some(delay) => Some(Delay::from_proto(
                delay,
                field.key("delay"),
                key(delay_percent_runtime, "fault.http.delay.fixed_delay_percent"),
                key(delay_duration_runtime, "fault.http.delay.fixed_duration_ms"),
            )?),
            None => None,
        };
        let abort_keys = [
            key(abort_percent_runtime, "fault.http.abort.abort_percent"),
            key(abort_http_status_runtime, "fault.http.abort.http_status"),
            key(abort_grpc_status_runtime, "fault.http.abort.grpc_status"),
        ];
        Some(Settings {
            delay,
            abort: abort.as_ref().and_then(|abort| Abort::from_proto(abort, abort_keys)),
            upstream_cluster: upstream_cluster.clone(),
            headers: headers.collect::<Option<_>>()?,
            downstream_nodes: downstream_nodes.clone(),
            max_active: max_active_faults.map(|max| u64::from(max.value)),
            max_active_key: key(max_active_faults_runtime, "fault.http.max_active_faults"),
        })
    }

    /// Whether the request is one of those that are meant.
    fn concerns(&self, request: &Request, stream: &Stream) -> bool {
        let cluster = || stream.route.as_ref().and_then(|route| route.cluster(request));
        let node = || request.headers().get("x-envoy-downstream-service-node").and_then(|node| node.to_str().ok());
        (self.upstream_cluster.is_empty() || cluster() == Some(&*self.upstream_cluster))
            && (self.downstream_nodes.is_empty()
                || node().is_some_and(|node| self.downstream_nodes.iter().any(|other| other == node)))
            && self.headers.iter().all(|header| header.matches(request))
    }

    fn max_active(&self, runtime: &Runtime) -> Option<u64> {
        integer(runtime, &self.max_active_key).or(self.max_active)
    }
}

impl Delay {
    fn from_proto(proto: &FaultDelay, field: Field<'_>, share_key: String, duration_key: String) -> Option<Delay> {
        let FaultDelay { percentage, fault_delay_secifier } = proto;
        let duration = match fault_delay_secifier {
            Some(FaultDelaySecifier::FixedDelay(delay)) => Some(field.duration("fixed_delay", &Some(*delay))?),
            Some(FaultDelaySecifier::HeaderDelay(_)) => None,
            None => {
                field.error("one of fixed_delay and header_delay is required");
                return None;
            }
        };
        let header = duration.is_none().then_some("x-envoy-fault-delay-request-percentage");
        let share = Share { proto: percentage.unwrap_or_default(), key: share_key, header };
        Some(Delay { share, duration, duration_key })
    }

    fn duration(&self, headers: &HeaderMap, runtime: &Runtime) -> Option<Duration> {
        let told = || number(headers, "x-envoy-fault-delay-request").map(Duration::from_millis);
        let duration = self.duration.or_else(told)?;
        let duration = integer(runtime, &self.duration_key).map_or(duration, Duration::from_millis);
        (!duration.is_zero()).then_some(duration)
    }
}

impl Abort {
    fn from_proto(proto: &FaultAbort, [share_key, http_key, grpc_key]: [String; 3]) -> Option<Abort> {
        let FaultAbort { percentage, response_body, error_type } = proto;
        let error = match error_type.as_ref()? {
            ErrorType::HttpStatus(status) => AbortError::Http((*status).into()),
            ErrorType::GrpcStatus(status) => AbortError::Grpc((*status).into()),
            ErrorType::HeaderAbort(_) => AbortError::Header,
        };
        let header = (error == AbortError::Header).then_some("x-envoy-fault-abort-request-percentage");
        let share = Share { proto: percentage.unwrap_or_default(), key: share_key, header };
        let body = if response_body.is_empty() { "fault filter abort" } else { response_body };
        Some(Abort { share, error, http_key, grpc_key, body: body.to_owned() })
    }

    /// An HTTP status goes before a gRPC status, which comes with the HTTP status 200.
    fn status(&self, headers: &HeaderMap, runtime: &Runtime) -> Option<(StatusCode, Option<u32>)> {
        let (http, grpc) = match self.error {
            AbortError::Http(status) => (Some(status), None),
            AbortError::Grpc(status) => (None, Some(status)),
            AbortError::Header => {
                let http = number(headers, "x-envoy-fault-abort-request").filter(|code| (200..600).contains(code));
                (http, number(headers, "x-envoy-fault-abort-grpc-request"))
            }
        };
        let http = http.map(|status| integer(runtime, &self.http_key).unwrap_or(status));
        if let Some(status) = http {
            let status = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
            return Some((status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), None));
        }
        let grpc = integer(runtime, &self.grpc_key).filter(|_| grpc.is_some()).or(grpc)?;
        Some((StatusCode::OK, u32::try_from(grpc).ok()))
    }
}

impl Share {
    fn holds(&self, headers: &HeaderMap, runtime: &Runtime, random: u64) -> bool {
        let mut proto = self.proto;
        if let Some(told) = self.header.and_then(|name| number(headers, name)) {
            proto.numerator = proto.numerator.min(u32::try_from(told).unwrap_or(u32::MAX));
        }
        let changed = runtime.get(&self.key).and_then(|value| value.percent());
        changed.unwrap_or_else(|| FractionalPercent::from_proto(proto)).holds(random)
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn integer(runtime: &Runtime, key: &str) -> Option<u64> {
    runtime.get(key)?.integer()
}

impl Fault {
    fn new(settings: Arc<Settings>, cx: &FactoryContext<'_>) -> Fault {
        Fault { settings, stats: FaultStats::new(&cx.filter_stats("fault")) }
    }
}

impl HttpFilterConfig for Fault {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let settings = place.settings().unwrap_or_else(|| Arc::clone(&self.settings));
        Box::new(Injector { settings, fault: self, active: None })
    }
}

/// The filter on one stream.
struct Injector {
    fault: Arc<Fault>,
    settings: Arc<Settings>,
    active: Option<stats::Held>,
}

impl HttpFilter for Injector {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        Box::pin(self.inject(request, stream))
    }
}

impl Injector {
    async fn inject(&mut self, request: &Request, stream: &mut Stream) -> Decoded {
        let (settings, stats) = (&self.settings, &self.fault.stats);
        let runtime = stream.worker.runtime();
        if settings.max_active(&runtime).is_some_and(|max| stats.active_faults.value() >= max) {
            stats.faults_overflow.inc();
            return Decoded::Continue;
        }
        if !settings.concerns(request, stream) {
            return Decoded::Continue;
        }
        let headers = request.headers();
        if let Some(delay) = &settings.delay
            && delay.share.holds(headers, &runtime, stream.worker.random.next_u64())
            && let Some(duration) = delay.duration(headers, &runtime)
        {
            stats.delays_injected.inc();
            stream.info.flags.set(ResponseFlags::DELAY_INJECTED);
            self.active = Some(stats.active_faults.hold());
            tokio::time::sleep(duration).await;
        }
        if let Some(abort) = &settings.abort
            && abort.share.holds(headers, &runtime, stream.worker.random.next_u64())
            && let Some((status, grpc_status)) = abort.status(headers, &runtime)
        {
            stats.aborts_injected.inc();
            self.active.get_or_insert_with(|| stats.active_faults.hold());
            return Decoded::Reply(LocalReply {
                flags: ResponseFlags::FAULT_INJECTED,
                body: abort.body.clone().into(),
                grpc_status,
                ..LocalReply::new(status, "fault_filter_abort")
            });
        }
        Decoded::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Report, Source, load},
        proto::bootstrap::LayeredRuntime,
    };

    fn settings(yaml: &str) -> Settings {
        let report = Report::new();
        let proto: HttpFault = load(&Source::new("test.yaml", yaml), &report).unwrap();
        Settings::from_proto(&proto, Field::root(&report)).unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn headers_decide_where_they_may() {
        let report = Report::new();
        let runtime = Runtime::from_proto(&LayeredRuntime::default(), "", Field::root(&report));
        let free = settings(
            "{delay: {header_delay: {}, percentage: {numerator: 50}}, abort: {header_abort: {}, percentage: {numerator: 100}}}",
        );
        let (delay, abort) = (free.delay.unwrap(), free.abort.unwrap());
        let asked = headers(&[("x-envoy-fault-delay-request", "20"), ("x-envoy-fault-abort-request", "503")]);
        assert_eq!(delay.duration(&asked, &runtime), Some(Duration::from_millis(20)));
        assert_eq!(delay.duration(&HeaderMap::new(), &runtime), None);
        assert_eq!(abort.status(&asked, &runtime), Some((StatusCode::SERVICE_UNAVAILABLE, None)));
        let grpc = headers(&[("x-envoy-fault-abort-grpc-request", "5")]);
        assert_eq!(abort.status(&grpc, &runtime), Some((StatusCode::OK, Some(5))));
        assert_eq!(abort.status(&HeaderMap::new(), &runtime), None);
        assert!(delay.share.holds(&HeaderMap::new(), &runtime, 49));
        assert!(!delay.share.holds(&headers(&[("x-envoy-fault-delay-request-percentage", "10")]), &runtime, 49));
        assert!(!delay.share.holds(&headers(&[("x-envoy-fault-delay-request-percentage", "90")]), &runtime, 60));
    }

    #[test]
    fn the_runtime_goes_over_the_settings() {
        let report = Report::new();
        let runtime = Runtime::from_proto(&LayeredRuntime::default(), "", Field::root(&report));
        let values = [("fault.http.abort.http_status", "418"), ("my.share", "0")];
        let layer = "{layers: [{name: admin, admin_layer: {}}]}";
        let layers: LayeredRuntime = load(&Source::new("test.yaml", layer), &report).unwrap();
        let changed = Runtime::from_proto(&layers, "", Field::root(&report)).modified(values).unwrap();
        let settings =
            settings("{abort_percent_runtime: my.share, abort: {http_status: 500, percentage: {numerator: 100}}}");
        let abort = settings.abort.unwrap();
        assert_eq!(abort.status(&HeaderMap::new(), &runtime).unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(abort.status(&HeaderMap::new(), &changed).unwrap().0, StatusCode::IM_A_TEAPOT);
        assert!(abort.share.holds(&HeaderMap::new(), &runtime, 99));
        assert!(!abort.share.holds(&HeaderMap::new(), &changed, 0));
    }
}
