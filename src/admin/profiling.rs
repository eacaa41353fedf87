//! Endpoints of Envoy that look into its own machinery: its profilers, its allocator, its table of stat names. Portreeve has none of
//! these, and answers as an Envoy that was built without them.

use http::StatusCode;

use super::{
    endpoint::{Answer, Parameter},
    query::Query,
};

/// What the profilers understand.
pub(super) const ENABLE: &[Parameter] = &[Parameter::one_of("enable", "Enable or disable it", &["y", "n"])];

/// Answers a request to start or stop a profiler.
pub(super) fn switch(query: &Query, profiler: &str) -> Answer {
    if matches!(query.get("enable"), Some("y" | "n")) && query.iter().count() == 1 {
        unsupported(profiler)
    } else {
        Answer::bad_request("?enable=<y|n>\n")
    }
}

/// There is no such thing.
pub(super) fn unsupported(what: &str) -> Answer {
    Answer::text(format!("The current build does not support {what}\n")).with_status(StatusCode::NOT_IMPLEMENTED)
}

/// Answers `/contention`.
pub(super) fn contention() -> Answer {
    Answer::text("Mutex contention tracing is not enabled. There is no lock that requests could wait for.\n")
}

/// Answers `/stats/recentlookups`. Stats are found by name when the configuration is loaded, never while requests are served, so there
/// is nothing to list.
pub(super) fn recent_lookups(enabled: bool) -> Answer {
    let list = if enabled {
        "   Count Lookup\n"
    } else {
        "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n"
    };
    Answer::text(format!("{list}\ntotal: 0\n"))
}
