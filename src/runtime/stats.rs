//! What is counted of the runtime.

use super::Runtime;
use crate::stats;

stats::declare! {
    /// Of the runtime values, under `runtime.`
    pub struct RuntimeStats {
        /// Times that all layers were read.
        load_success: Counter,
        /// Times that a layer could not be read.
        load_error: Counter,
        /// Keys that have a value.
        num_keys: Gauge,
        /// Layers.
        num_layers: Gauge,
        /// Times that there was a directory on top of another one.
        override_dir_exists: Counter,
        /// Times that there was none.
        override_dir_not_exists: Counter,
        /// Whether the admin interface has set a value: 1 or 0.
        admin_overrides_active: Gauge,
    }
}

impl RuntimeStats {
    /// Counts that the layers have been read. On the main thread.
    pub fn record(&self, runtime: &Runtime) {
        if runtime.layers.iter().any(|layer| layer.failed) {
            self.load_error.inc()
        } else {
            self.load_success.inc()
        }
        let directories = runtime.layers().filter(|layer| layer.is_directory()).count();
        if directories > 1 {
            self.override_dir_exists.inc()
        } else {
            self.override_dir_not_exists.inc()
        }
        self.num_keys.set(runtime.merged.len() as u64);
        self.num_layers.set(runtime.layers().count() as u64);
        let overridden = runtime.admin_layer().is_some_and(|layer| !layer.values.is_empty());
        self.admin_overrides_active.set(overridden.into());
    }
}
