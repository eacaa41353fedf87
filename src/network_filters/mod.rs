//! Network filters: what serves a connection once its transport is up. One row each.

use crate::conn_manager;
use crate::filter::network::NetworkFilterFactory;

/// Every network filter that a configuration can name.
pub const FACTORIES: &[NetworkFilterFactory] = &[conn_manager::FACTORY];
