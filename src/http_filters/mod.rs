//! HTTP filters, one file (or directory) and one row each.
//!
//! The router is not among them: it ends every chain, and the connection manager knows it by name.

pub mod registration;

use crate::filter::http::HttpFilterFactory;

/// Every HTTP filter that a configuration can name.
pub const FACTORIES: &[HttpFilterFactory] = &[registration::FACTORY];
