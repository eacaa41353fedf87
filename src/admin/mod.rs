//! The admin interface: /ready, /stats, /clusters and the rest, in Envoy's formats.
