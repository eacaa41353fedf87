//! HTTP filters, one file (or directory) and one row each.
//!
//! The router is not among them: it ends every chain, and the connection manager knows it by name.

mod api_key_auth;
mod basic_auth;
mod csrf;
mod fault;
mod grpc_http1_bridge;
mod grpc_http1_reverse_bridge;
mod header_to_metadata;
mod health_check;
mod json_to_metadata;
mod local_ratelimit;
mod match_delegate;
mod rbac;
pub mod registration;
mod set_metadata;

use crate::{filter::http::HttpFilterFactory, route::FilterSettingsFactory};

/// Every HTTP filter that a configuration can name.
pub const FACTORIES: &[HttpFilterFactory] = &[
    api_key_auth::FACTORY,
    basic_auth::FACTORY,
    csrf::FACTORY,
    fault::FACTORY,
    grpc_http1_bridge::FACTORY,
    grpc_http1_reverse_bridge::FACTORY,
    header_to_metadata::FACTORY,
    health_check::FACTORY,
    json_to_metadata::FACTORY,
    local_ratelimit::FACTORY,
    match_delegate::COMPOSITE,
    match_delegate::FACTORY,
    rbac::FACTORY,
    registration::FACTORY,
    set_metadata::FACTORY,
];

/// Every kind of settings that routes can have of HTTP filters.
pub const SETTINGS: &[FilterSettingsFactory] = &[
    api_key_auth::SETTINGS,
    basic_auth::SETTINGS,
    csrf::SETTINGS,
    fault::SETTINGS,
    grpc_http1_reverse_bridge::SETTINGS,
    header_to_metadata::SETTINGS,
    json_to_metadata::SETTINGS,
    local_ratelimit::SETTINGS,
    rbac::SETTINGS,
    set_metadata::SETTINGS,
];
