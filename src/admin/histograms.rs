//! Histograms on `/stats`, in each of the forms that `histogram_buckets` names.

use std::fmt::Write;

use crate::stats::{Distribution, HistogramReading, QUANTILES};

/// What is told of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Quantiles.
    Summary,
    /// How many values there are up to each bound.
    Cumulative,
    /// How many values there are between the bounds.
    Disjoint,
    /// All buckets that hold values, and the quantiles.
    Detailed,
}

impl Detail {
    /// As they are written in a request.
    pub(super) const NAMES: [&str; 4] = ["cumulative", "disjoint", "detailed", "summary"];

    pub(super) fn parse(name: &str) -> Option<Detail> {
        match name {
            "cumulative" => Some(Detail::Cumulative),
            "disjoint" => Some(Detail::Disjoint),
            "detailed" => Some(Detail::Detailed),
            "summary" | "none" | "" => Some(Detail::Summary),
            _ => None,
        }
    }
}

/// Writes one histogram with its name.
pub(super) fn write_text(text: &mut String, histogram: &HistogramReading, bounds: &[f64], detail: Detail) {
    let HistogramReading { name, interval, cumulative, used } = histogram;
    let _ = match detail {
        _ if !used => writeln!(text, "{name}: No recorded values"),
        Detail::Summary => writeln!(text, "{name}: {}", summary(interval, cumulative)),
        Detail::Cumulative | Detail::Disjoint => {
            let counts: Vec<String> = buckets(histogram, bounds, detail)
                .map(|(bound, interval, cumulative)| format!("B{}({interval},{cumulative})", general(bound)))
                .collect();
            writeln!(text, "{name}: {}", counts.join(" "))
        }
        Detail::Detailed => writeln!(
            text,
            "{name}:\n  totals={}\n  intervals={}\n  summary={}",
            bins(cumulative),
            bins(interval),
            summary(interval, cumulative)
        ),
    };
}

/// Writes all histograms as one element of a list.
pub(super) fn json<'a>(histograms: &[HistogramReading], bounds: impl Fn(&str) -> &'a [f64], detail: Detail) -> String {
    let each = |write: &dyn Fn(&HistogramReading) -> String| histograms.iter().map(write).collect::<Vec<_>>().join(",");
    let quantiles = QUANTILES.map(|quantile| percent(quantile).to_string()).join(",");
    match detail {
        Detail::Summary => {
            let computed = each(&|histogram| json_object(histogram, "values", &values(histogram)));
            format!("{{\"histograms\":{{\"supported_quantiles\":[{quantiles}],\"computed_quantiles\":[{computed}]}}}}")
        }
        Detail::Cumulative | Detail::Disjoint => {
            let listed = each(&|histogram| {
                let buckets: Vec<String> = buckets(histogram, bounds(&histogram.name), detail)
                    .map(|(bound, interval, cumulative)| {
                        let bound = shortest(bound);
                        format!("{{\"upper_bound\":{bound},\"interval\":{interval},\"cumulative\":{cumulative}}}")
                    })
                    .collect();
                json_object(histogram, "buckets", &buckets.join(","))
            });
            format!("{{\"histograms\":[{listed}]}}")
        }
        Detail::Detailed => {
            let details = each(&|histogram| {
                let lists = format!(
                    "{}],\"intervals\":[{}],\"percentiles\":[{}",
                    json_bins(&histogram.cumulative),
                    json_bins(&histogram.interval),
                    values(histogram)
                );
                json_object(histogram, "totals", &lists)
            });
            format!("{{\"histograms\":{{\"supported_percentiles\":[{quantiles}],\"details\":[{details}]}}}}")
        }
    }
}

/// Each bound, and how many values of the last interval and of all time belong to it.
fn buckets(histogram: &HistogramReading, bounds: &[f64], detail: Detail) -> impl Iterator<Item = (f64, u64, u64)> {
    let mut below = None;
    bounds.iter().map(move |&bound| {
        let count = |distribution: &Distribution| match below {
            Some(below) if detail == Detail::Disjoint => distribution.count_between(below, bound),
            _ => distribution.count_up_to(bound),
        };
        let counted = (bound, count(&histogram.interval), count(&histogram.cumulative));
        below = Some(bound);
        counted
    })
}

fn summary(interval: &Distribution, cumulative: &Distribution) -> String {
    let values = interval.quantiles().into_iter().zip(cumulative.quantiles());
    let quantiles: Vec<String> = (QUANTILES.into_iter().zip(values))
        .map(|(quantile, (interval, cumulative))| {
            format!("P{}({},{})", percent(quantile), general(interval), general(cumulative))
        })
        .collect();
    quantiles.join(" ")
}

fn bins(distribution: &Distribution) -> String {
    let bins: Vec<String> = distribution
        .bins()
        .map(|(lower, width, count)| format!("{},{}:{count}", general(lower), general(width)))
        .collect();
    bins.join(", ")
}

fn json_bins(distribution: &Distribution) -> String {
    let bins: Vec<String> = distribution
        .bins()
        .map(|(lower, width, count)| {
            let (lower, width) = (shortest(lower), shortest(width));
            format!("{{\"lower_bound\":{lower},\"width\":{width},\"count\":{count}}}")
        })
        .collect();
    bins.join(",")
}

/// The quantiles of a histogram.
fn values(histogram: &HistogramReading) -> String {
    let values = |distribution: &Distribution| {
        distribution.quantiles().map(|value| if value.is_nan() { "null".to_owned() } else { shortest(value) })
    };
    let pairs: Vec<String> = values(&histogram.cumulative)
        .into_iter()
        .zip(values(&histogram.interval))
        .map(|(cumulative, interval)| format!("{{\"cumulative\":{cumulative},\"interval\":{interval}}}"))
        .collect();
    pairs.join(",")
}

fn json_object(histogram: &HistogramReading, list: &str, elements: &str) -> String {
    format!("{{\"name\":{},\"{list}\":[{elements}]}}", quoted(&histogram.name))
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A number as Envoy's text has it: six digits, `1.8e+06` from a million on, `nan` if there is none.
fn general(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value < 1e6 {
        return value.to_string();
    }
    scientific(value)
}

/// A number as Envoy's JSON has it: whatever is shorter, `3e+05` or `1800000`.
fn shortest(value: f64) -> String {
    let (plain, scientific) = (value.to_string(), scientific(value));
    if scientific.len() < plain.len() { scientific } else { plain }
}

fn scientific(value: f64) -> String {
    let text = format!("{value:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => {
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{digits}e+{exponent:0>2}")
        }
    }
}

/// To one decimal digit, because 99.9 is not exactly 100 times 0.999.
fn percent(quantile: f64) -> f64 {
    (quantile * 1000.0).round() / 10.0
}
