//! Access log filters: which streams are logged (`envoy.config.accesslog.v3.AccessLogFilter`).
//!
//! A filter that is not implemented is an error and not a warning, although it touches no traffic: ignoring it would write more than the
//! author asked for, perhaps what must not be kept.

use std::hash::{DefaultHasher, Hasher};
use std::time::UNIX_EPOCH;

use http::HeaderName;

use crate::config::Field;
use crate::matcher::HeaderMatcher;
use crate::proto::accesslog::access_log_filter::FilterSpecifier;
use crate::proto::accesslog::comparison_filter::Op;
use crate::proto::accesslog::{
    AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, GrpcStatusFilter, HeaderFilter, LogTypeFilter,
    NotHealthCheckFilter, OrFilter, ResponseFlagFilter, RuntimeFilter, StatusCodeFilter,
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
    /// `runtime_filter`: so many of so many streams, chosen by request id.
    Sample {
        /// How many are logged,
        chosen: RuntimeNumber,
        /// of so many.
        of: u64,
    },
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
            FilterSpecifier::TraceableFilter(filter) => unsupported("traceable_filter", filter, field),
            FilterSpecifier::ExtensionFilter(filter) => unsupported("extension_filter", filter, field),
            FilterSpecifier::MetadataFilter(filter) => unsupported("metadata_filter", filter, field),
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
            Filter::Sample { chosen, of } => stable_random(info) % of < chosen.value(runtime),
            Filter::All(filters) => filters.iter().all(|filter| filter.passes(info, runtime)),
            Filter::Any(filters) => filters.iter().any(|filter| filter.passes(info, runtime)),
            Filter::Header(name, matcher) => {
                matcher.matches_values(operator::request_header(name, &Scope::finished(info)).into_iter())
            }
            Filter::Flags(flags) => info.flags.intersects(*flags),
            Filter::AnyFlag => !info.flags.is_empty(),
            Filter::GrpcStatus { statuses, exclude } => statuses.contains(&info.grpc_status.unwrap_or(0)) != *exclude,
            Filter::LogType { types, exclude } => types.contains(&(info.log_type as i32)) != *exclude,
            Filter::Constant(passes) => *passes,
            Filter::NotHealthCheck => !info.is_health_check,
        }
    }

    /// Adds the headers that the filter reads.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        match self {
            Filter::Sample { .. } => operator::add(&mut capture.request, &REQUEST_ID),
            Filter::Header(Header::Named(name), _) => operator::add(&mut capture.request, name),
            Filter::All(filters) | Filter::Any(filters) => filters.iter().for_each(|filter| filter.capture(capture)),
            _ => {}
        }
    }
}

fn unsupported<T>(name: &'static str, filter: &T, field: Field<'_>) -> Option<Filter> {
    field.unsupported(name, &Some(filter));
    None
}

/// Converts all, so that all errors are reported.
fn list(filters: &[AccessLogFilter], field: Field<'_>) -> Option<Vec<Filter>> {
    let field = field.key("filters");
    let converted: Vec<_> =
        filters.iter().enumerate().map(|(i, filter)| Filter::from_proto(filter, field.index(i))).collect();
    converted.into_iter().collect()
}

fn sample(filter: &RuntimeFilter, field: Field<'_>) -> Option<Filter> {
    let RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = filter;
    field.ignored("use_independent_randomness", use_independent_randomness, "requests are chosen by their id");
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
    Some(Filter::Sample { chosen: RuntimeNumber::from_proto(&chosen), of })
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
