//! The real server over real sockets, by behaviour: one file for each, written in the words of `support`.

#![allow(missing_docs, reason = "the tests' names say what they show")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "under construction")]

mod support;
