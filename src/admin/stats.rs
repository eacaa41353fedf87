//! `/stats` and `/stats/prometheus`: which stats are asked for, and in what form.

use std::{fmt::Write, sync::Arc};

use regex::Regex;

use super::{
    endpoint::{Answer, Parameter},
    histograms::{self, Detail},
    query::Query,
};
use crate::{
    snapshot::StatsConfig,
    stats::{self, Exposition, HistogramStyle, Readings, Registry},
};

const USED_ONLY: Parameter =
    Parameter::any("usedonly", "Only include stats that have been written since the process started");
const FILTER: Parameter = Parameter::any("filter", "Regular expression for filtering stats by name");
const INVERT_FILTER: Parameter = Parameter::any("invert_filter", "Include what the filter does not match");
const TEXT_READOUTS: Parameter = Parameter::any("text_readouts", "Include texts as gauges; there are none");
const FORMATS: [&str; 4] = ["html", "json", "prometheus", "text"];
const TYPES: [&str; 5] = ["All", "Counters", "Gauges", "Histograms", "TextReadouts"];
const HIDDEN: [&str; 3] = ["include", "only", "exclude"];

/// What `/stats/prometheus` understands.
pub(super) const FILTERS: &[Parameter] = &[
    USED_ONLY,
    TEXT_READOUTS,
    FILTER,
    INVERT_FILTER,
    Parameter::one_of("histogram_buckets", "Histogram bucket display mode", &["cumulative", "summary"]),
];
/// What `/stats` understands.
pub(super) const PARAMETERS: &[Parameter] = &[
    USED_ONLY,
    FILTER,
    INVERT_FILTER,
    Parameter::one_of("format", "Format to use", &FORMATS),
    Parameter::one_of("type", "Stat types to include", &TYPES),
    Parameter::one_of("histogram_buckets", "Histogram bucket display mode", &Detail::NAMES),
    Parameter::one_of("hidden", "Whether to include hidden stats; there are none", &HIDDEN),
];

/// Answers `/stats`.
pub(super) fn respond(registry: &Arc<Registry>, config: &StatsConfig, query: &Query) -> Answer {
    let detail = match query.get("histogram_buckets").map(Detail::parse) {
        None => Detail::Summary,
        Some(Some(detail)) => detail,
        Some(None) => return usage("histogram_buckets", &Detail::NAMES),
    };
    let hidden = query.get("hidden").unwrap_or("exclude");
    if !HIDDEN.contains(&hidden) {
        return usage("hidden", &HIDDEN);
    }
    let mut readings = match select(registry, config, query) {
        Ok(readings) => readings,
        Err(refusal) => return refusal,
    };
    let kind = query.get("type").unwrap_or("All");
    if !TYPES.contains(&kind) {
        return Answer::bad_request("invalid &type= param");
    }
    for (name, emptied) in [("Counters", &mut readings.counters), ("Gauges", &mut readings.gauges)] {
        if hidden == "only" || kind != "All" && kind != name {
            emptied.clear();
        }
    }
    if hidden == "only" || kind != "All" && kind != "Histograms" {
        readings.histograms.clear();
    }
    match query.get("format").unwrap_or("text") {
        "text" => Answer::text(text(&readings, config, detail)),
        "html" => Answer::html(html(&text(&readings, config, detail))),
        "json" => Answer::json(json(&readings, config, detail)),
        "prometheus" => prometheus_answer(&readings, config, detail),
        _ => usage("format", &FORMATS),
    }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(registry: &Arc<Registry>, config: &StatsConfig, query: &Query) -> Answer {
    let detail = match query.get("histogram_buckets") {
        None | Some("cumulative") => Detail::Cumulative,
        Some("summary") => Detail::Summary,
        Some(_) => return usage("histogram_buckets", &["cumulative", "summary"]),
    };
    match select(registry, config, query) {
        Ok(readings) => prometheus_answer(&readings, config, detail),
        Err(refusal) => refusal,
    }
}

/// Quantiles only where they are asked for: they cannot be added up.
fn prometheus_answer(readings: &Readings, config: &StatsConfig, detail: Detail) -> Answer {
    let style = if detail == Detail::Summary { HistogramStyle::Summary } else { HistogramStyle::Buckets };
    let exposition = Exposition { tagging: &config.tagging, buckets: &|name| config.buckets(name), style };
    Answer::text(stats::write_prometheus(readings, exposition))
}

fn usage(parameter: &str, values: &[&str]) -> Answer {
    Answer::bad_request(format!("usage: /stats?{parameter}=({})\n\n", values.join("|")))
}

/// Reads the stats that are asked for.
fn select(registry: &Arc<Registry>, config: &StatsConfig, query: &Query) -> Result<Readings, Answer> {
    let filter = match query.get("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return Err(Answer::bad_request(format!("Invalid re2 regex: {error}"))),
    };
    let (used_only, invert) = (query.has("usedonly"), query.has("invert_filter"));
    let wanted = |name: &str, used: bool| {
        (used || !used_only)
            && config.shows(name)
            && filter.as_ref().is_none_or(|filter| filter.is_match(name) != invert)
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

fn text(readings: &Readings, config: &StatsConfig, detail: Detail) -> String {
    let mut text = String::new();
    for (name, value) in scalars(readings) {
        let _ = writeln!(text, "{name}: {value}");
    }
    for histogram in &readings.histograms {
        histograms::write_text(&mut text, histogram, config.buckets(&histogram.name), detail);
    }
    text
}

fn html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head><meta charset='utf-8'><title>Portreeve Stats</title></head>\n\
         <body>\n<pre>\n{text}</pre>\n</body>\n</html>\n"
    )
}

/// One line, as Envoy's: a list of counters and gauges, and as its last element all histograms.
fn json(readings: &Readings, config: &StatsConfig, detail: Detail) -> String {
    let mut elements: Vec<String> = scalars(readings)
        .into_iter()
        .map(|(name, value)| format!("{{\"name\":{},\"value\":{value}}}", histograms::quoted(name)))
        .collect();
    if !readings.histograms.is_empty() {
        elements.push(histograms::json(&readings.histograms, |name| config.buckets(name), detail));
    }
    format!("{{\"stats\":[{}]}}", elements.join(","))
}
