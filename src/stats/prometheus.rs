//! The Prometheus text form of the stats, with Envoy's names and labels.

use std::fmt::Write;

use super::{Distribution, HistogramReading, QUANTILES, Reading, Readings, tags::Tagging};

/// The upper bounds of the buckets that Envoy exports by default.
pub const BUCKETS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// How histograms are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistogramStyle {
    /// As how many values there are up to each bound.
    Buckets,
    /// As quantiles of the last full interval.
    Summary,
}

/// How readings are presented.
#[derive(Clone, Copy)]
pub struct Exposition<'a> {
    /// What is a label.
    pub tagging: &'a Tagging,
    /// The upper bounds of the buckets of a histogram, by its name.
    pub buckets: &'a dyn Fn(&str) -> &'a [f64],
    /// How histograms are told.
    pub style: HistogramStyle,
}

/// Writes `readings` in the Prometheus text exposition format.
#[must_use]
pub fn write(readings: &Readings, exposition: Exposition<'_>) -> String {
    let mut text = String::new();
    let tagging = exposition.tagging;
    write_scalars(&mut text, tagging, "counter", &readings.counters);
    write_scalars(&mut text, tagging, "gauge", &readings.gauges);
    let histograms = readings.histograms.iter().map(|histogram| (&*histogram.name, histogram));
    match exposition.style {
        HistogramStyle::Buckets => {
            write_families(&mut text, tagging, "histogram", histograms, |text, metric, labels, read| {
                write_buckets(text, metric, labels, &read.cumulative, (exposition.buckets)(&read.name));
            });
        }
        HistogramStyle::Summary => write_families(&mut text, tagging, "summary", histograms, write_summary),
    }
    text
}

fn write_scalars(text: &mut String, tagging: &Tagging, kind: &str, readings: &[Reading]) {
    let named = readings.iter().map(|reading| (&*reading.name, reading.value));
    write_families(text, tagging, kind, named, |text, metric, labels, value| {
        let _ = writeln!(text, "{metric}{{{labels}}} {value}");
    });
}

/// Groups stats that differ in their tags only, and writes each group after its type.
fn write_families<'a, T>(
    text: &mut String,
    tagging: &Tagging,
    kind: &str,
    stats: impl Iterator<Item = (&'a str, T)>,
    write: impl Fn(&mut String, &str, &str, T),
) {
    let mut samples: Vec<(String, String, T)> = stats
        .map(|(name, value)| {
            let (metric, labels) = name_and_labels(tagging, name);
            (metric, labels, value)
        })
        .collect();
    // Stable: within a group the order is that of the full names.
    samples.sort_by(|left, right| left.0.cmp(&right.0));
    let mut last = String::new();
    for (metric, labels, value) in samples {
        if metric != last {
            let _ = writeln!(text, "# TYPE {metric} {kind}");
            last.clone_from(&metric);
        }
        write(text, &metric, &labels, value);
    }
}

fn write_buckets(text: &mut String, metric: &str, labels: &str, distribution: &Distribution, bounds: &[f64]) {
    let comma = if labels.is_empty() { "" } else { "," };
    for limit in bounds {
        let count = distribution.count_up_to(*limit);
        let _ = writeln!(text, "{metric}_bucket{{{labels}{comma}le=\"{limit}\"}} {count}");
    }
    let count = distribution.count();
    let _ = writeln!(text, "{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    write_totals(text, metric, labels, distribution);
}

fn write_summary(text: &mut String, metric: &str, labels: &str, histogram: &HistogramReading) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (quantile, value) in QUANTILES.into_iter().zip(histogram.interval.quantiles()) {
        let value = if value.is_nan() { "nan".to_owned() } else { value.to_string() };
        let _ = writeln!(text, "{metric}{{{labels}{comma}quantile=\"{quantile}\"}} {value}");
    }
    write_totals(text, metric, labels, &histogram.interval);
}

fn write_totals(text: &mut String, metric: &str, labels: &str, distribution: &Distribution) {
    let _ = writeln!(text, "{metric}_sum{{{labels}}} {}", distribution.sum());
    let _ = writeln!(text, "{metric}_count{{{labels}}} {}", distribution.count());
}

fn name_and_labels(tagging: &Tagging, name: &str) -> (String, String) {
    let tagged = tagging.extract(name);
    let mut metric = String::from("envoy");
    for part in tagged.parts {
        metric.push('_');
        metric.extend(part.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    }
    let mut labels = String::new();
    for (label, value) in tagged.tags {
        let comma = if labels.is_empty() { "" } else { "," };
        let label: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(labels, "{comma}{label}=\"{value}\"");
    }
    (metric, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn exposed(readings: &Readings) -> String {
        let tagging = Tagging::default();
        write(readings, Exposition { tagging: &tagging, buckets: &|_| &BUCKETS, style: HistogramStyle::Buckets })
    }

    #[test]
    fn families_are_grouped_typed_and_sorted() {
        let registry = Registry::new(0);
        let scopes = ["cluster.b", "cluster.a", "http.in"].map(|name| registry.scope(name));
        let _held = (
            scopes[0].counter("upstream_rq_200"),
            scopes[1].counter("upstream_rq_200"),
            scopes[1].counter("upstream_rq_2xx"),
            scopes[2].gauge("downstream_cx_active"),
        );
        scopes[0].counter("upstream_rq_200").add(7);
        scopes[2].gauge("downstream_cx_active").inc();
        let expected = "\
# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"a\"} 0
envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"b\"} 7
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"a\"} 0
# TYPE envoy_http_downstream_cx_active gauge
envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"in\"} 1
";
        assert_eq!(exposed(&registry.read()), expected);
    }

    #[test]
    fn a_histogram_has_buckets_a_sum_and_a_count() {
        let registry = Registry::new(0);
        let histogram = registry.scope("").histogram("h");
        for value in [0, 1, 5_000] {
            histogram.record(value);
        }
        let text = exposed(&registry.read());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            ["# TYPE envoy_h histogram", "envoy_h_bucket{le=\"0.5\"} 1", "envoy_h_bucket{le=\"1\"} 2"]
        );
        assert_eq!(
            lines[11..14],
            ["envoy_h_bucket{le=\"2500\"} 2", "envoy_h_bucket{le=\"5000\"} 3", "envoy_h_bucket{le=\"10000\"} 3"]
        );
        assert_eq!(
            lines[19..],
            [
                "envoy_h_bucket{le=\"3600000\"} 3",
                "envoy_h_bucket{le=\"+Inf\"} 3",
                "envoy_h_sum{} 5001",
                "envoy_h_count{} 3"
            ]
        );
    }

    #[test]
    fn labels_are_escaped_and_names_made_valid() {
        let (metric, labels) = name_and_labels(&Tagging::default(), "cluster.a\"b\\c\nd.x-y/z");
        assert_eq!((&*metric, &*labels), ("envoy_cluster_x_y_z", r#"envoy_cluster_name="a\"b\\c\nd""#));
    }
}
