//! `/listeners`: where the process listens.

use std::fmt::Write;

use super::{
    endpoint::Answer,
    json::{self, Defaults},
    query::Query,
};
use crate::{
    net::Address,
    proto::admin::{ListenerStatus, Listeners},
};

/// Answers `/listeners`.
pub(super) fn respond(listening: &[(String, Address)], query: &Query) -> Answer {
    match query.get("format") {
        Some("json") => {
            let status = |(name, address): &(String, Address)| ListenerStatus {
                name: name.clone(),
                local_address: Some(json::address(address)),
                ..ListenerStatus::default()
            };
            json::answer(&Listeners { listener_statuses: listening.iter().map(status).collect() }, Defaults::Skip)
        }
        _ => {
            let mut text = String::new();
            for (name, address) in listening {
                let _ = writeln!(text, "{name}::{address}");
            }
            Answer::text(text)
        }
    }
}
