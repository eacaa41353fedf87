//! Counters, gauges and histograms: one shard a worker, one writer each.
