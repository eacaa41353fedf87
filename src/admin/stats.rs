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
const FORMATS: [&str; 5] = ["html", "active-html", "json", "prometheus", "text"];
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
    let detail = match detail(query) {
        Ok(detail) => detail,
        Err(refusal) => return refusal,
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
    let format = query.get("format").unwrap_or("text");
    if format == "prometheus" {
        return prometheus_answer(&readings, config, detail);
    }
    for (name, emptied) in [("Counters", &mut readings.counters), ("Gauges", &mut readings.gauges)] {
        if hidden == "only" || kind != "All" && kind != name {
            emptied.clear();
        }
    }
    if hidden == "only" || kind != "All" && kind != "Histograms" {
        readings.histograms.clear();
    }
    let detail = detail.unwrap_or(Detail::Summary);
    match format {
        "text" => Answer::text(text(&readings, config, detail)),
        "html" => Answer::html(html(&text(&readings, config, detail), "")),
        "active-html" => Answer::html(html(&text(&readings, config, detail), REFRESH)),
        "json" => Answer::json(json(&readings, config, detail)),
        _ => usage("format", &FORMATS),
    }
}

/// The histograms of Prometheus' protobuf form, which nobody has asked for yet.
const NATIVE: &str = "prometheusnative";

/// What `histogram_buckets` asks for, if anything.
fn detail(query: &Query) -> Result<Option<Detail>, Answer> {
    let named = query.get("histogram_buckets");
    match named.map(Detail::parse) {
        Some(None) if named == Some(NATIVE) => Err(Answer::bad_request(
            "unsupported prometheusnative histogram type when not using protobuf exposition format",
        )),
        Some(None) => {
            let names = [&Detail::NAMES[..], &[NATIVE]].concat().join("|");
            Err(Answer::bad_request(format!("usage: /stats?histogram_buckets=({names})\n")))
        }
        parsed => Ok(parsed.flatten()),
    }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(registry: &Arc<Registry>, config: &StatsConfig, query: &Query) -> Answer {
    let answer = || Ok(prometheus_answer(&select(registry, config, query)?, config, detail(query)?));
    answer().unwrap_or_else(|refusal| refusal)
}

/// Quantiles only where they are asked for: they cannot be added up.
fn prometheus_answer(readings: &Readings, config: &StatsConfig, detail: Option<Detail>) -> Answer {
    let style = match detail {
        None | Some(Detail::Cumulative) => HistogramStyle::Buckets,
        Some(Detail::Summary) => HistogramStyle::Summary,
        Some(Detail::Disjoint | Detail::Detailed) => {
            return Answer::bad_request("unsupported prometheus histogram bucket mode");
        }
    };
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
        Err(error) => return Err(Answer::bad_request(format!("Invalid re2 regex: {}", last_line(&error)))),
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

/// The sentence that says what is wrong with a regular expression; the lines before it draw where.
fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
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

/// What makes a page stay up to date by itself.
const REFRESH: &str = "<meta http-equiv='refresh' content='2'>";

fn html(text: &str, head: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head><meta charset='utf-8'>{head}<title>Portreeve Stats</title></head>\n\
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
