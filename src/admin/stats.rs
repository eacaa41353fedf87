//! `/stats` and `/stats/prometheus`.

use std::{fmt::Write, sync::Arc};

use regex::Regex;

use super::{
    endpoint::{Answer, Parameter},
    query::Query,
};
use crate::stats::{self, Distribution, HistogramReading, QUANTILES, Readings, Registry};

const USED_ONLY: Parameter =
    Parameter::any("usedonly", "Only include stats that have been written since the process started");
const FILTER: Parameter = Parameter::any("filter", "Regular expression for filtering stats by name");
const INVERT_FILTER: Parameter = Parameter::any("invert_filter", "Include what the filter does not match");
const FORMATS: [&str; 3] = ["text", "json", "prometheus"];
const TYPES: [&str; 5] = ["All", "Counters", "Gauges", "Histograms", "TextReadouts"];

/// What `/stats/prometheus` understands.
pub(super) const FILTERS: &[Parameter] = &[USED_ONLY, FILTER, INVERT_FILTER];
/// What `/stats` understands.
pub(super) const PARAMETERS: &[Parameter] = &[
    USED_ONLY,
    FILTER,
    INVERT_FILTER,
    Parameter::one_of("format", "Format to use", &FORMATS),
    Parameter::one_of("type", "Stat types to include", &TYPES),
];

/// Answers `/stats`.
pub(super) fn respond(registry: &Arc<Registry>, query: &Query) -> Answer {
    let mut readings = match select(registry, query) {
        Ok(readings) => readings,
        Err(refusal) => return refusal,
    };
    let kind = query.get("type").unwrap_or("All");
    if !TYPES.contains(&kind) {
        return Answer::bad_request("invalid &type= param\n");
    }
    for (name, emptied) in [("Counters", &mut readings.counters), ("Gauges", &mut readings.gauges)] {
        if kind != "All" && kind != name {
            emptied.clear();
        }
    }
    if kind != "All" && kind != "Histograms" {
        readings.histograms.clear();
    }
    match query.get("format").unwrap_or("text") {
        "text" => Answer::text(text(&readings)),
        "json" => Answer::json(json(&readings)),
        "prometheus" => Answer::text(stats::write_prometheus(&readings)),
        _ => Answer::bad_request(format!("usage: /stats?format=({})\n\n", FORMATS.join("|"))),
    }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(registry: &Arc<Registry>, query: &Query) -> Answer {
    match select(registry, query) {
        Ok(readings) => Answer::text(stats::write_prometheus(&readings)),
        Err(refusal) => refusal,
    }
}

/// Reads the stats that are asked for.
fn select(registry: &Arc<Registry>, query: &Query) -> Result<Readings, Answer> {
    if query.get("histogram_buckets").is_some_and(|buckets| buckets != "summary") {
        return Err(Answer::not_implemented("histogram_buckets other than summary"));
    }
    let filter = match query.get("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return Err(Answer::bad_request(format!("invalid regular expression: {error}\n"))),
    };
    let (used_only, invert) = (query.has("usedonly"), query.has("invert_filter"));
    let wanted = |name: &str, used: bool| {
        (used || !used_only) && filter.as_ref().is_none_or(|filter| filter.is_match(name) != invert)
    };
    let mut readings = registry.read();
    readings.counters.retain(|counter| wanted(&counter.name, counter.used));
    readings.gauges.retain(|gauge| wanted(&gauge.name, gauge.used));
    readings.histograms.retain(|histogram| wanted(&histogram.name, histogram.used));
    Ok(readings)
}

/// Counters and gauges in one order, by name.
fn scalars(readings: &Readings) -> Vec<(&str, u64)> {
    let both = readings.counters.iter().chain(&readings.gauges);
    let mut scalars: Vec<(&str, u64)> = both.map(|reading| (&*reading.name, reading.value)).collect();
    scalars.sort_unstable();
    scalars
}

fn text(readings: &Readings) -> String {
    let mut text = String::new();
    for (name, value) in scalars(readings) {
        let _ = writeln!(text, "{name}: {value}");
    }
    for HistogramReading { name, interval, cumulative, used } in &readings.histograms {
        if !used {
            let _ = writeln!(text, "{name}: No recorded values");
            continue;
        }
        let _ = write!(text, "{name}:");
        let values = interval.quantiles().into_iter().zip(cumulative.quantiles());
        for (quantile, (interval, cumulative)) in QUANTILES.into_iter().zip(values) {
            let (interval, cumulative) = (number(interval, "nan"), number(cumulative, "nan"));
            let _ = write!(text, " P{}({interval},{cumulative})", percent(quantile));
        }
        text.push('\n');
    }
    text
}

/// One line, as Envoy's: a list of counters and gauges, and as its last element all histograms.
fn json(readings: &Readings) -> String {
    let mut elements: Vec<String> = scalars(readings)
        .into_iter()
        .map(|(name, value)| format!("{{\"name\":{},\"value\":{value}}}", quoted(name)))
        .collect();
    if !readings.histograms.is_empty() {
        let quantiles = QUANTILES.map(|quantile| percent(quantile).to_string()).join(",");
        let computed: Vec<String> = readings.histograms.iter().map(json_histogram).collect();
        elements.push(format!(
            "{{\"histograms\":{{\"supported_quantiles\":[{quantiles}],\"computed_quantiles\":[{}]}}}}",
            computed.join(",")
        ));
    }
    format!("{{\"stats\":[{}]}}", elements.join(","))
}

fn json_histogram(histogram: &HistogramReading) -> String {
    let values = |distribution: &Distribution| distribution.quantiles().map(|value| number(value, "null"));
    let pairs: Vec<String> = values(&histogram.cumulative)
        .into_iter()
        .zip(values(&histogram.interval))
        .map(|(cumulative, interval)| format!("{{\"cumulative\":{cumulative},\"interval\":{interval}}}"))
        .collect();
    format!("{{\"name\":{},\"values\":[{}]}}", quoted(&histogram.name), pairs.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `nothing` in place of what is not a number.
fn number(value: f64, nothing: &str) -> String {
    if value.is_nan() { nothing.to_owned() } else { value.to_string() }
}

/// To one decimal digit, because 99.9 is not exactly 100 times 0.999.
fn percent(quantile: f64) -> f64 {
    (quantile * 1000.0).round() / 10.0
}
