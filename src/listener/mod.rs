//! Listeners: where connections come in, and which filter chain serves them.

use crate::config::Field;
use crate::filter::FactoryContext;
use crate::proto;

/// A compiled `envoy.config.listener.v3.Listener`.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
}

impl Listener {
    /// Converts a listener and reports what is wrong with it.
    pub fn from_proto(
        listener: &proto::listener::Listener,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<Listener> {
        let _ = (listener, field.path(), cx.service_cluster);
        todo!()
    }
}
