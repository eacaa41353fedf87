//! Counting from several threads, and the lives of scopes.

use std::thread;

use super::*;

fn names(readings: &[Reading]) -> Vec<(&str, u64)> {
    readings.iter().map(|reading| (&*reading.name, reading.value)).collect()
}

#[test]
fn the_same_name_is_the_same_stat() {
    let registry = Registry::new(1);
    let first = registry.scope("cluster.a").counter("upstream_rq_total");
    let second = registry.scope("cluster").scope("a").counter("upstream_rq_total");
    first.inc();
    second.add(2);
    assert_eq!((first.value(), second.value()), (3, 3));
    assert_eq!(names(&registry.read().counters), [("cluster.a.upstream_rq_total", 3)]);
}

#[test]
fn workers_count_without_losing_any() {
    let registry = Registry::new(4);
    let scope = registry.scope("");
    let (counter, gauge, histogram) = (scope.counter("c"), scope.gauge("g"), scope.histogram("h"));
    thread::scope(|threads| {
        for index in 1..=4 {
            let (counter, gauge, histogram) = (&counter, &gauge, &histogram);
            threads.spawn(move || {
                enter_worker(index);
                for _ in 0..10_000 {
                    counter.inc();
                    gauge.inc();
                    histogram.record(7);
                }
                gauge.sub(9_000);
            });
        }
    });
    assert_eq!((counter.value(), gauge.value()), (40_000, 4_000));
    assert_eq!(registry.read().histograms[0].cumulative.count(), 40_000);
}

#[test]
fn a_gauge_may_be_raised_and_lowered_by_different_workers() {
    let registry = Registry::new(2);
    let gauge = registry.scope("").gauge("active");
    thread::scope(|threads| {
        for index in 1..=2 {
            let gauge = &gauge;
            threads.spawn(move || {
                enter_worker(index);
                if index == 1 { gauge.add(5) } else { gauge.sub(3) }
            });
        }
    });
    assert_eq!(gauge.value(), 2);
    gauge.set(10);
    assert_eq!(gauge.value(), 12);
}

#[test]
fn a_gauge_that_was_set_to_zero_counts_as_used() {
    let registry = Registry::new(1);
    let (_untouched, zero) = (registry.scope("").gauge("a"), registry.scope("").gauge("b"));
    zero.set(0);
    let used: Vec<bool> = registry.read().gauges.iter().map(|gauge| gauge.used).collect();
    assert_eq!(used, [false, true]);
}

#[test]
fn a_stat_that_nobody_holds_is_forgotten_and_its_slot_is_reused_from_zero() {
    let registry = Registry::new(1);
    let scope = registry.scope("cluster.gone");
    let kept = scope.counter("kept");
    let dropped = scope.counter("dropped");
    dropped.add(5);
    drop(dropped);
    assert_eq!(names(&registry.read().counters), [("cluster.gone.kept", 0)]);
    let next = scope.gauge("next");
    assert_eq!(next.value(), 0);
    assert!(Arc::ptr_eq(&kept.slot.shards, &next.slot.shards));
    drop(scope.histogram("passing"));
    assert!(registry.read().histograms.is_empty());
}

#[test]
fn a_name_can_come_back_while_its_old_stat_ends() {
    let registry = Registry::new(1);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..1_000 {
                    drop(registry.scope("a").counter("b"));
                }
            });
        }
    });
    assert!(registry.read().counters.is_empty());
    let again = registry.scope("a").counter("b");
    again.inc();
    assert_eq!(names(&registry.read().counters), [("a.b", 1)]);
}

#[test]
fn a_reset_starts_counters_over_and_leaves_gauges_alone() {
    let registry = Registry::new(1);
    let (counter, gauge) = (registry.scope("").counter("c"), registry.scope("").gauge("g"));
    counter.add(3);
    gauge.add(3);
    registry.reset_counters();
    counter.inc();
    assert_eq!((counter.value(), gauge.value()), (1, 3));
}

#[test]
fn a_scope_name_is_written_as_envoy_writes_it() {
    let registry = Registry::new(0);
    let names = ["127.0.0.1:80", "[::1]:80", "a.b.", "http://x:/y"].map(|name| registry.scope(name).counter("c"));
    let read = registry.read();
    let mut expected = ["127.0.0.1_80.c", "[__1]_80.c", "a.b.c", "http_x_y.c"];
    expected.sort_unstable();
    assert_eq!(read.counters.iter().map(|counter| &*counter.name).collect::<Vec<_>>(), expected);
    drop(names);
}

#[test]
fn response_codes_are_counted_by_code_and_class() {
    let registry = Registry::new(0);
    let codes = ResponseCodes::new(&registry.scope("cluster.a"), "upstream_rq");
    for code in [200, 200, 204, 503, 99, 600] {
        codes.inc(code);
    }
    let expected = [
        ("cluster.a.upstream_rq_200", 2),
        ("cluster.a.upstream_rq_204", 1),
        ("cluster.a.upstream_rq_2xx", 3),
        ("cluster.a.upstream_rq_503", 1),
        ("cluster.a.upstream_rq_5xx", 1),
    ];
    assert_eq!(names(&registry.read().counters), expected);
}

/// The expected texts were read from Envoy's own `/stats` after the same records.
#[test]
fn quantiles_are_those_of_envoy() {
    let quantiles = |values: &[u64]| {
        let registry = Registry::new(0);
        let histogram = registry.scope("").histogram("h");
        for &value in values {
            histogram.record(value);
        }
        registry.read().histograms[0].cumulative.quantiles().map(|value| value.to_string()).join(" ")
    };
    assert_eq!(quantiles(&[]), "NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN");
    assert_eq!(quantiles(&[37]), "37.5 37.5 37.5 37.5 37.5 37.5 37.5 37.5 37.5 37.5");
    assert_eq!(quantiles(&[1, 1, 1]), "1.025 1.025 1.05 1.075 1.075 1.075 1.075 1.075 1.075 1.075");
    let last = ["8.066666666666666"; 6].join(" ");
    assert_eq!(quantiles(&[0, 2, 2, 3, 5, 6, 7, 8, 8]), format!("0 2.066666666666667 5.05 7.05 {last}"));
}

#[test]
fn a_histogram_counts_up_to_a_limit() {
    let registry = Registry::new(0);
    let histogram = registry.scope("").histogram("h");
    for value in [0, 1, 5, 10, 99, 100, 250, 1_000_000, u64::MAX] {
        histogram.record(value);
    }
    let distribution = &registry.read().histograms[0].cumulative;
    let counts = [0.5, 1.0, 5.0, 10.0, 100.0, 300.0, 2e6, f64::INFINITY].map(|limit| distribution.count_up_to(limit));
    assert_eq!(counts, [1, 2, 3, 4, 6, 7, 8, 9]);
}

#[test]
fn an_interval_ends_with_a_flush() {
    let registry = Registry::new(0);
    let histogram = registry.scope("").histogram("h");
    let counts = || {
        let read = registry.read();
        (read.histograms[0].interval.count(), read.histograms[0].cumulative.count())
    };
    histogram.record(3);
    assert_eq!(counts(), (0, 1));
    registry.flush();
    histogram.record(4);
    assert_eq!(counts(), (1, 2));
    registry.flush();
    registry.flush();
    assert_eq!(counts(), (0, 2));
}
