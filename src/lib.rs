//! Portreeve, the single-port ingress appliance for systemd hosts.
//!
//! The map of the crate, from the process down to the bits. A module imports only from lines further down this list;
//! `tests/architecture.rs` holds the table and checks it.

pub mod cli;

pub mod server;

pub mod admin;
pub mod registration;

pub mod snapshot;

pub mod listener;

pub mod network_filters;

pub mod conn_manager;

pub mod http_filters;

pub mod router;

pub mod filter;

pub mod route;
pub mod upstream;

pub mod http;

pub mod access_log;
pub mod tls;

pub mod stream_info;

pub mod drain;
pub mod matcher;
pub mod net;

pub mod runtime;

pub mod config;

pub mod proto;
pub mod stats;
pub mod sys;
