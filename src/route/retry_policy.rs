//! `RetryPolicy`: which outcomes of an attempt call for another one, and how that is made.
//!
//! A route's policy stands in place of its virtual host's. Requests can ask for more by `x-envoy-retry-on` and its kin; the router
//! puts both together.

use std::{num::NonZeroUsize, time::Duration};

use http::HeaderName;
use prost::Name;

use crate::{
    config::Field,
    matcher::{HeaderMatcher, LOAD_BALANCING, Labels},
    proto,
};

/// A compiled `RetryPolicy`.
#[derive(Debug)]
pub struct RetryPolicy {
    /// What calls for another attempt.
    pub on: RetryOn,
    /// How many further attempts there may be; 1 unless set.
    pub num_retries: u32,
    /// How long each attempt may take to bring the head of a response.
    pub per_try_timeout: Option<Duration>,
    /// How long nothing may move in an attempt.
    pub per_try_idle_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub retriable_status_codes: Vec<u16>,
    /// For `retriable-headers`: any of them in the response.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// If there are any, only requests that have one of them are tried again.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// How long to wait before each attempt.
    pub back_off: BackOff,
    /// Headers by which a response says how long to wait.
    pub reset_headers: Vec<ResetHeader>,
    /// The longest time that a response may ask for so; longer ones are not believed.
    pub max_reset_interval: Duration,
    /// Hosts that another attempt does not go to if that can be helped.
    pub omit: Vec<HostPredicate>,
    /// After so many attempts, and as many again, priorities that were tried are left alone (`previous_priorities`).
    pub priorities_tried_after: Option<NonZeroUsize>,
    /// How many further choices are made for want of a host that `omit` allows.
    pub host_selection_retries: u32,
}

/// Exponential waiting, of which each wait is a random part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BackOff {
    /// The longest first wait; it doubles with every further one.
    pub base: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> BackOff {
        const BASE: Duration = Duration::from_millis(25);
        BackOff { base: BASE, max: 10 * BASE }
    }
}

/// A header of a response that says when to ask again.
#[derive(Clone, Debug)]
pub struct ResetHeader {
    /// Such as `retry-after`.
    pub name: HeaderName,
    /// What its value means.
    pub format: ResetFormat,
}

/// What the value of a [`ResetHeader`] means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

/// Which hosts another attempt avoids (`retry_host_predicate`).
#[derive(Clone, Debug)]
pub enum HostPredicate {
    /// Those that have been tried.
    PreviousHosts,
    /// Those whose metadata `envoy.lb` says `canary: true`.
    CanaryHosts,
    /// Those that have all of these labels.
    Metadata(Labels),
}

/// A set of the conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// `5xx`: a response of status 500 to 599, or none at all.
    pub const SERVER_ERROR: RetryOn = RetryOn(1);
    /// `gateway-error`: status 502 to 504, or no response.
    pub const GATEWAY_ERROR: RetryOn = RetryOn(1 << 1);
    /// `reset`: no response.
    pub const RESET: RetryOn = RetryOn(1 << 2);
    /// `reset-before-request`: no response, and the request was not sent.
    pub const RESET_BEFORE_REQUEST: RetryOn = RetryOn(1 << 3);
    /// `connect-failure`: no connection.
    pub const CONNECT_FAILURE: RetryOn = RetryOn(1 << 4);
    /// `envoy-ratelimited`: a response with `x-envoy-ratelimited`.
    pub const ENVOY_RATELIMITED: RetryOn = RetryOn(1 << 5);
    /// `retriable-4xx`: status 409.
    pub const RETRIABLE_4XX: RetryOn = RetryOn(1 << 6);
    /// `refused-stream`: the host did not look at the request.
    pub const REFUSED_STREAM: RetryOn = RetryOn(1 << 7);
    /// `retriable-status-codes`
    pub const RETRIABLE_STATUS_CODES: RetryOn = RetryOn(1 << 8);
    /// `retriable-headers`
    pub const RETRIABLE_HEADERS: RetryOn = RetryOn(1 << 9);
    const HTTP3_POST_CONNECT_FAILURE: RetryOn = RetryOn(1 << 10);
    /// `cancelled`: `grpc-status` 1 in the head of the response.
    pub const GRPC_CANCELLED: RetryOn = RetryOn(1 << 11);
    /// `deadline-exceeded`: `grpc-status` 4.
    pub const GRPC_DEADLINE_EXCEEDED: RetryOn = RetryOn(1 << 12);
    /// `resource-exhausted`: `grpc-status` 8.
    pub const GRPC_RESOURCE_EXHAUSTED: RetryOn = RetryOn(1 << 13);
    /// `internal`: `grpc-status` 13.
    pub const GRPC_INTERNAL: RetryOn = RetryOn(1 << 14);
    /// `unavailable`: `grpc-status` 14.
    pub const GRPC_UNAVAILABLE: RetryOn = RetryOn(1 << 15);

    /// Whether it holds one of the conditions of `other`.
    #[must_use]
    pub fn intersects(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// The words of `x-envoy-retry-on`, as many as are known; and whether all are.
    #[must_use]
    pub fn parse_http(words: &str) -> (RetryOn, bool) {
        RetryOn::parse(words, &[HTTP_WORDS])
    }

    /// The words of `x-envoy-retry-grpc-on`, as many as are known; and whether all are.
    #[must_use]
    pub fn parse_grpc(words: &str) -> (RetryOn, bool) {
        RetryOn::parse(words, &[GRPC_WORDS])
    }

    fn parse(words: &str, tables: &[&[(&str, RetryOn)]]) -> (RetryOn, bool) {
        let mut all_known = true;
        let mut on = RetryOn::default();
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match tables.iter().copied().flatten().find(|(known, _)| *known == word) {
                Some((_, condition)) => on = on.union(*condition),
                None => all_known = false,
            }
        }
        (on, all_known)
    }
}

const HTTP_WORDS: &[(&str, RetryOn)] = &[
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::ENVOY_RATELIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("retriable-headers", RetryOn::RETRIABLE_HEADERS),
    // There is no HTTP/3 upstream, so this never comes to pass.
    ("http3-post-connect-failure", RetryOn::HTTP3_POST_CONNECT_FAILURE),
];

const GRPC_WORDS: &[(&str, RetryOn)] = &[
    ("cancelled", RetryOn::GRPC_CANCELLED),
    ("deadline-exceeded", RetryOn::GRPC_DEADLINE_EXCEEDED),
    ("resource-exhausted", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    ("internal", RetryOn::GRPC_INTERNAL),
    ("unavailable", RetryOn::GRPC_UNAVAILABLE),
];

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::default(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            back_off: BackOff::default(),
            reset_headers: Vec::new(),
            max_reset_interval: DEFAULT_MAX_RESET_INTERVAL,
            omit: Vec::new(),
            priorities_tried_after: None,
            host_selection_retries: 1,
        }
    }
}

const DEFAULT_MAX_RESET_INTERVAL: Duration = Duration::from_mins(5);

impl RetryPolicy {
    pub(super) fn from_proto(proto: &proto::route::RetryPolicy, field: Field<'_>) -> RetryPolicy {
        let proto::route::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = proto;
        field.unsupported("retry_options_predicates", retry_options_predicates);
        field.ignored("refresh_cluster_on_retry", refresh_cluster_on_retry, "a request stays with its cluster");
        let (on, all_known) = RetryOn::parse(retry_on, &[HTTP_WORDS, GRPC_WORDS]);
        if !all_known {
            field.key("retry_on").warning("holds conditions that do not exist, which Envoy ignores as well");
        }
        let (reset_headers, max_reset_interval) = match rate_limited_retry_back_off {
            Some(back_off) => reset_back_off(back_off, field.key("rate_limited_retry_back_off")),
            None => (Vec::new(), None),
        };
        let defaults = RetryPolicy::default();
        let attempts = u32::try_from(*host_selection_retry_max_attempts).unwrap_or_default();
        RetryPolicy {
            on,
            num_retries: num_retries.as_ref().map_or(defaults.num_retries, |number| number.value),
            per_try_timeout: positive(field.duration("per_try_timeout", per_try_timeout)),
            per_try_idle_timeout: positive(field.duration("per_try_idle_timeout", per_try_idle_timeout)),
            retriable_status_codes: retriable_status_codes
                .iter()
                .filter_map(|code| u16::try_from(*code).ok())
                .collect(),
            retriable_headers: matchers(retriable_headers, field.key("retriable_headers")),
            retriable_request_headers: matchers(retriable_request_headers, field.key("retriable_request_headers")),
            back_off: retry_back_off
                .as_ref()
                .map_or(defaults.back_off, |proto| BackOff::from_proto(proto, field.key("retry_back_off"))),
            reset_headers,
            max_reset_interval: max_reset_interval.unwrap_or(defaults.max_reset_interval),
            omit: host_predicates(retry_host_predicate, field.key("retry_host_predicate")),
            priorities_tried_after: retry_priority
                .as_ref()
                .and_then(|proto| previous_priorities(proto, field.key("retry_priority"))),
            host_selection_retries: if attempts == 0 { defaults.host_selection_retries } else { attempts },
        }
    }
}

/// Whether an attempt that takes too long goes on beside the next one (`HedgePolicy`); None if nothing is said.
pub(super) fn hedge_on_per_try_timeout(proto: &Option<proto::route::HedgePolicy>, field: Field<'_>) -> Option<bool> {
    let proto::route::HedgePolicy { initial_requests, additional_request_chance, hedge_on_per_try_timeout } =
        proto.as_ref()?;
    let why = "Envoy does not use it either";
    field.ignored("initial_requests", initial_requests, why);
    field.ignored("additional_request_chance", additional_request_chance, why);
    Some(*hedge_on_per_try_timeout)
}

/// Zero means no limit.
fn positive(duration: Option<Duration>) -> Option<Duration> {
    duration.filter(|duration| !duration.is_zero())
}

fn matchers(protos: &[proto::route::HeaderMatcher], list: Field<'_>) -> Vec<HeaderMatcher> {
    protos.iter().enumerate().filter_map(|(i, proto)| HeaderMatcher::from_proto(proto, list.index(i))).collect()
}

impl BackOff {
    fn from_proto(proto: &proto::route::retry_policy::RetryBackOff, field: Field<'_>) -> BackOff {
        let proto::route::retry_policy::RetryBackOff { base_interval, max_interval } = proto;
        // As in Envoy, whose clock has milliseconds.
        let least = |duration: Duration| duration.max(Duration::from_millis(1));
        let base = field.duration("base_interval", base_interval).map_or(BackOff::default().base, least);
        let max = field.duration("max_interval", max_interval).map_or(10 * base, least);
        if max < base {
            field.key("max_interval").error("must be greater than or equal to the base_interval");
        }
        BackOff { base, max }
    }
}

fn reset_back_off(
    proto: &proto::route::retry_policy::RateLimitedRetryBackOff,
    field: Field<'_>,
) -> (Vec<ResetHeader>, Option<Duration>) {
    let proto::route::retry_policy::RateLimitedRetryBackOff { reset_headers, max_interval } = proto;
    let list = field.key("reset_headers");
    let headers = reset_headers.iter().enumerate().filter_map(|(i, proto)| reset_header(proto, list.index(i)));
    (headers.collect(), field.duration("max_interval", max_interval))
}

fn reset_header(proto: &proto::route::retry_policy::ResetHeader, field: Field<'_>) -> Option<ResetHeader> {
    use proto::route::retry_policy::ResetHeaderFormat;

    let proto::route::retry_policy::ResetHeader { name, format } = proto;
    let name = HeaderName::from_bytes(name.as_bytes()).ok();
    if name.is_none() {
        field.key("name").error("not a valid header name");
    }
    let format = match ResetHeaderFormat::try_from(*format).ok()? {
        ResetHeaderFormat::Seconds => ResetFormat::Seconds,
        ResetHeaderFormat::UnixTimestamp => ResetFormat::UnixTimestamp,
    };
    Some(ResetHeader { name: name?, format })
}

/// After how many attempts priorities that were tried are left alone.
fn previous_priorities(proto: &proto::route::retry_policy::RetryPriority, field: Field<'_>) -> Option<NonZeroUsize> {
    use proto::route::retry_policy::retry_priority::ConfigType;

    let proto::route::retry_policy::RetryPriority { name: _name, config_type } = proto;
    let field = field.key("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        field.error("is required");
        return None;
    };
    let proto::retry_previous_priorities::PreviousPrioritiesConfig { update_frequency } = field.unpack(any)?;
    usize::try_from(update_frequency).ok().and_then(NonZeroUsize::new)
}

fn host_predicates(protos: &[proto::route::retry_policy::RetryHostPredicate], list: Field<'_>) -> Vec<HostPredicate> {
    protos.iter().enumerate().filter_map(|(i, proto)| HostPredicate::from_proto(proto, list.index(i))).collect()
}

impl HostPredicate {
    fn from_proto(proto: &proto::route::retry_policy::RetryHostPredicate, field: Field<'_>) -> Option<HostPredicate> {
        use proto::route::retry_policy::retry_host_predicate::ConfigType;

        let proto::route::retry_policy::RetryHostPredicate { name: _name, config_type } = proto;
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            field.key("typed_config").error("is required");
            return None;
        };
        let config = field.key("typed_config");
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name == proto::retry_previous_hosts::PreviousHostsPredicate::full_name() {
            return Some(HostPredicate::PreviousHosts);
        }
        if type_name == proto::retry_omit_canary_hosts::OmitCanaryHostsPredicate::full_name() {
            return Some(HostPredicate::CanaryHosts);
        }
        if type_name == proto::retry_omit_host_metadata::OmitHostMetadataConfig::full_name() {
            let proto::retry_omit_host_metadata::OmitHostMetadataConfig { metadata_match } = config.unpack(any)?;
            let metadata = metadata_match.unwrap_or_default();
            let selected = metadata.filter_metadata.get(LOAD_BALANCING).map(Labels::from_struct);
            return Some(HostPredicate::Metadata(selected.unwrap_or_default()));
        }
        config.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve yet"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn policy(proto: &proto::route::RetryPolicy) -> (RetryPolicy, Vec<String>) {
        let report = Report::new();
        let policy = RetryPolicy::from_proto(proto, Field::root(&report));
        (policy, report.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn words_of_both_kinds_stand_in_one_list() {
        let retry_on = "gateway-error, cancelled,nonsense".to_owned();
        let (policy, problems) = policy(&proto::route::RetryPolicy { retry_on, ..Default::default() });
        assert_eq!(policy.on, RetryOn::GATEWAY_ERROR.union(RetryOn::GRPC_CANCELLED));
        assert_eq!(problems, ["retry_on: holds conditions that do not exist, which Envoy ignores as well"]);
        assert_eq!(RetryOn::parse_http("cancelled"), (RetryOn::default(), false));
        assert_eq!(RetryOn::parse_grpc(" unavailable "), (RetryOn::GRPC_UNAVAILABLE, true));
    }

    #[test]
    fn back_off_grows_to_ten_times_its_base_unless_it_says_otherwise() {
        let back_off = |base: i32, max: Option<i32>| {
            let millis = |nanos: i32| proto::Duration { seconds: 0, nanos: nanos * 1_000_000 };
            let retry_back_off = Some(proto::route::retry_policy::RetryBackOff {
                base_interval: Some(millis(base)),
                max_interval: max.map(millis),
            });
            policy(&proto::route::RetryPolicy { retry_back_off, ..Default::default() })
        };
        assert_eq!(back_off(30, None).0.back_off.max, Duration::from_millis(300));
        assert_eq!(back_off(30, Some(40)).0.back_off.max, Duration::from_millis(40));
        assert_eq!(
            back_off(30, Some(20)).1,
            ["retry_back_off.max_interval: must be greater than or equal to the base_interval"]
        );
    }
}
