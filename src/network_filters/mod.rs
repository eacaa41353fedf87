//! Network filters: what serves a connection once its transport is up.
