//! The real server over real sockets, by behaviour: one file for each, written in the words of `support`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod access_log;
mod admin;
mod attempts;
mod bad_requests;
mod certificate_files;
mod cli;
mod descriptors;
mod drain;
mod grpc;
mod http;
mod package;
mod registration;
mod reload;
mod routing;
mod signals;
mod smuggling;
mod start_up;
mod tcp_proxy;
mod tls;
mod websocket;
