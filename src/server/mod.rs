//! The process: everything with a lifetime.
