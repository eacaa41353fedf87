//! Access log filters: which streams are logged (`envoy.config.accesslog.v3.AccessLogFilter`).
//!
//! A filter that is not implemented is an error and not a warning, although it touches no traffic: ignoring it would write more than the
//! author asked for, perhaps what must not be kept.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::time::UNIX_EPOCH;

use http::HeaderName;

use crate::config::Field;
use crate::matcher::{HeaderMatcher, MetadataMatcher};
use crate::proto::accesslog::access_log_filter::FilterSpecifier;
use crate::proto::accesslog::comparison_filter::Op;
use crate::proto::accesslog::{
    AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, GrpcStatusFilter, HeaderFilter, LogTypeFilter,
    MetadataFilter, NotHealthCheckFilter, OrFilter, ResponseFlagFilter, RuntimeFilter, StatusCodeFilter,
    TraceableFilter,
};
use crate::proto::core::RuntimeUInt32;
use crate::proto::type_v3::FractionalPercent;
use crate::proto::type_v3::fractional_percent::DenominatorType;
use crate::runtime::{Runtime, RuntimeNumber};
use crate::stream_info::{HeaderCapture, ResponseFlags, StreamInfo};

use super::command;
use super::operator::{self, Header};
use super::scope::Scope;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Envoy's flags that nothing here raises; a filter may name them all the same.
const FLAGS_NEVER_RAISED: &[&str] =
    &["UAEX", "RLSE", "IH", "RFCF", "NFCF", "OM", "DF", "DO", "DR", "UDO", "LH", "DPE", "UMSDR", "SI", "UPE", "NC"];

/// A compiled filter.
#[derive(Debug)]
pub enum Filter {
    /// `status_code_filter`
    StatusCode(Comparison),
    /// `duration_filter`, in milliseconds.
    Duration(Comparison),
    /// `runtime_filter`
    Sample(Sample),
    /// `and_filter`
    All(Vec<Filter>),
    /// `or_filter`
    Any(Vec<Filter>),
    /// `header_filter`, of the request.
    Header(Header, HeaderMatcher),
    /// `response_flag_filter`
    Flags(ResponseFlags),
    /// `response_flag_filter` that names none: any flag.
    AnyFlag,
    /// `grpc_status_filter`
    GrpcStatus {
        /// The codes that are listed.
        statuses: Vec<u32>,
        /// Whether the listed ones are the ones left out.
        exclude: bool,
    },
    /// `log_type_filter`
    LogType {
        /// The types that are listed.
        types: Vec<i32>,
        /// Whether the listed ones are the ones left out.
        exclude: bool,
    },
    /// `metadata_filter`: of what filters have found out.
    Metadata {
        /// What is wanted of a value that is there; without one, none will do.
        matcher: Option<MetadataMatcher>,
        /// Whether streams without the value are logged.
        if_absent: bool,
    },
    /// The same for every stream.
    Constant(bool),
    /// `not_health_check_filter`
    NotHealthCheck,
}

/// A number compared with the configured one.
#[derive(Debug, Clone)]
pub struct Comparison {
    op: Op,
    value: RuntimeNumber,
}

/// So many of so many streams.
#[derive(Debug, Clone)]
pub struct Sample {
    chosen: RuntimeNumber,
    of: u64,
    /// Chosen for each log anew, and not by request id.
    independent: bool,
}

impl Filter {
    /// Converts a filter and reports what is wrong with it.
    pub fn from_proto(filter: &AccessLogFilter, field: Field<'_>) -> Option<Filter> {
        let AccessLogFilter { filter_specifier } = filter;
        match field.required("filter_specifier", filter_specifier)? {
            FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison }) => {
                let field = field.key("status_code_filter");
                Comparison::from_proto(field.required("comparison", comparison)?, field).map(Filter::StatusCode)
            }
            FilterSpecifier::DurationFilter(DurationFilter { comparison }) => {
                let field = field.key("duration_filter");
                Comparison::from_proto(field.required("comparison", comparison)?, field).map(Filter::Duration)
            }
            // No filter answers health checks by itself yet, so every stream passes.
            FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {}) => Some(Filter::NotHealthCheck),
            FilterSpecifier::RuntimeFilter(runtime) => sample(runtime, field.key("runtime_filter")),
            FilterSpecifier::AndFilter(AndFilter { filters }) => {
                list(filters, field.key("and_filter")).map(Filter::All)
            }
            FilterSpecifier::OrFilter(OrFilter { filters }) => list(filters, field.key("or_filter")).map(Filter::Any),
            FilterSpecifier::ResponseFlagFilter(flags) => response_flags(flags, field.key("response_flag_filter")),
            FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter { statuses, exclude }) => Some(Filter::GrpcStatus {
                statuses: statuses.iter().filter_map(|status| u32::try_from(*status).ok()).collect(),
                exclude: *exclude,
            }),
            FilterSpecifier::LogTypeFilter(LogTypeFilter { types, exclude }) => {
                Some(Filter::LogType { types: types.clone(), exclude: *exclude })
            }
            FilterSpecifier::HeaderFilter(HeaderFilter { header }) => {
                let field = field.key("header_filter");
                let matcher = field.required("header", header)?;
                let field = field.key("header");
                let name = command::header(&matcher.name).map_err(|reason| field.key("name").error(reason));
                Some(Filter::Header(name.ok()?, HeaderMatcher::from_proto(matcher, field)?))
            }
            // Nothing is traced, so nobody forces it.
            FilterSpecifier::TraceableFilter(TraceableFilter {}) => Some(Filter::Constant(false)),
            FilterSpecifier::MetadataFilter(filter) => metadata(filter, field.key("metadata_filter")),
            FilterSpecifier::ExtensionFilter(filter) => {
                field.unsupported("extension_filter", &Some(filter));
                None
            }
        }
    }

    /// Whether the stream is logged.
    #[must_use]
    pub fn passes(&self, info: &StreamInfo, runtime: &Runtime) -> bool {
        match self {
            Filter::StatusCode(comparison) => comparison.holds(u64::from(info.response_code.unwrap_or(0)), runtime),
            Filter::Duration(comparison) => {
                let milliseconds = info.timing.end.unwrap_or_default().as_millis();
                comparison.holds(u64::try_from(milliseconds).unwrap_or(u64::MAX), runtime)
            }
            Filter::Sample(sample) => sample.takes(info, runtime),
            Filter::All(filters) => filters.iter().all(|filter| filter.passes(info, runtime)),
            Filter::Any(filters) => filters.iter().any(|filter| filter.passes(info, runtime)),
            Filter::Header(name, matcher) => {
                matcher.matches_values(operator::request_header(name, &Scope::finished(info)).into_iter())
            }
            Filter::Flags(flags) => info.flags.intersects(*flags),
            Filter::AnyFlag => !info.flags.is_empty(),
            Filter::GrpcStatus { statuses, exclude } => {
                statuses.contains(&info.grpc_status_or_mapped().unwrap_or(UNKNOWN)) != *exclude
            }
            Filter::LogType { types, exclude } => types.contains(&(info.log_type as i32)) != *exclude,
            Filter::Metadata { matcher, if_absent } => {
                let found = matcher
                    .as_ref()
                    .and_then(|matcher| info.all_dynamic_metadata().find_map(|metadata| matcher.passes(metadata)));
                found.unwrap_or(*if_absent)
            }
            Filter::Constant(passes) => *passes,
            Filter::NotHealthCheck => !info.is_health_check,
        }
    }

    /// Adds the headers that the filter reads.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        match self {
            Filter::Sample(Sample { independent: false, .. }) => operator::add(&mut capture.request, &REQUEST_ID),
            Filter::Header(Header::Named(name), _) => operator::add(&mut capture.request, name),
            Filter::All(filters) | Filter::Any(filters) => filters.iter().for_each(|filter| filter.capture(capture)),
            _ => {}
        }
    }
}

/// The gRPC status of what says nothing of one.
const UNKNOWN: u32 = 2;

/// Converts all, so that all errors are reported.
fn list(filters: &[AccessLogFilter], field: Field<'_>) -> Option<Vec<Filter>> {
    let field = field.key("filters");
    let converted: Vec<_> =
        filters.iter().enumerate().map(|(i, filter)| Filter::from_proto(filter, field.index(i))).collect();
    converted.into_iter().collect()
}

fn sample(filter: &RuntimeFilter, field: Field<'_>) -> Option<Filter> {
    let RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = filter;
    let FractionalPercent { numerator, denominator } = percent_sampled.unwrap_or_default();
    let of = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(error) => {
            field.key("percent_sampled").key("denominator").error(error.to_string());
            return None;
        }
    };
    let chosen = RuntimeUInt32 { default_value: numerator, runtime_key: runtime_key.clone() };
    let chosen = RuntimeNumber::from_proto(&chosen);
    Some(Filter::Sample(Sample { chosen, of, independent: *use_independent_randomness }))
}

impl Sample {
    fn takes(&self, info: &StreamInfo, runtime: &Runtime) -> bool {
        let random = if self.independent { RandomState::new().hash_one(self.of) } else { stable_random(info) };
        random % self.of < self.chosen.value(runtime)
    }
}

fn metadata(filter: &MetadataFilter, field: Field<'_>) -> Option<Filter> {
    let MetadataFilter { matcher, match_if_key_not_found } = filter;
    let if_absent = match_if_key_not_found.is_none_or(|flag| flag.value);
    let Some(matcher) = matcher else { return Some(Filter::Metadata { matcher: None, if_absent }) };
    let matcher = MetadataMatcher::from_proto(matcher, field.key("matcher"))?;
    Some(Filter::Metadata { matcher: Some(matcher), if_absent })
}

/// A number that is the same for all logs of one request.
fn stable_random(info: &StreamInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(id) = info.request_header(&REQUEST_ID) {
        hasher.write(id.as_bytes());
    } else {
        hasher.write_u64(info.connection.id);
        hasher.write_u128(info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
    }
    hasher.finish()
}

fn response_flags(filter: &ResponseFlagFilter, field: Field<'_>) -> Option<Filter> {
    let ResponseFlagFilter { flags: names } = filter;
    if names.is_empty() {
        return Some(Filter::AnyFlag);
    }
    let mut flags = ResponseFlags::NONE;
    for (i, name) in names.iter().enumerate() {
        match ResponseFlags::from_short_name(name) {
            Some(flag) => flags.set(flag),
            None if FLAGS_NEVER_RAISED.contains(&name.as_str()) => {}
            None => {
                field.key("flags").index(i).error(format!("unknown response flag {name:?}"));
                return None;
            }
        }
    }
    Some(Filter::Flags(flags))
}

impl Comparison {
    fn from_proto(comparison: &ComparisonFilter, field: Field<'_>) -> Option<Comparison> {
        let field = field.key("comparison");
        let ComparisonFilter { op, value } = comparison;
        let value = RuntimeNumber::from_proto(field.required("value", value)?);
        let op = Op::try_from(*op).map_err(|error| field.key("op").error(error.to_string())).ok()?;
        Some(Comparison { op, value })
    }

    fn holds(&self, actual: u64, runtime: &Runtime) -> bool {
        let value = self.value.value(runtime);
        match self.op {
            Op::Eq => actual == value,
            Op::Ge => actual >= value,
            Op::Le => actual <= value,
            Op::Ne => actual != value,
        }
    }
}
