//! The wire types: Envoy's v3 messages, xDS and our own.
