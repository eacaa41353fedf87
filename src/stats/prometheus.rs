//! The Prometheus text form of the stats.

use super::Readings;

/// Writes `readings` in the Prometheus text format, with Envoy's names and labels.
#[must_use]
pub fn write(readings: &Readings) -> String {
    let _ = readings;
    todo!()
}
