//! `/ready`, `/server_info`, `/memory`: the process as a whole.

use std::fs;

use http::StatusCode;

use super::{
    Process,
    endpoint::Answer,
    json::{self, Defaults},
};
use crate::proto::{
    self,
    admin::{Memory, ServerInfo, server_info::State},
};

/// Answers `/ready`: whether a load balancer should send requests here.
pub(super) fn ready(state: State) -> Answer {
    let status = if state == State::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::text(format!("{}\n", state.as_str_name())).with_status(status)
}

/// Answers `/server_info`.
pub(super) fn server_info(process: &dyn Process) -> Answer {
    let uptime = proto::duration(process.uptime());
    let uptime = Some(proto::Duration { nanos: 0, ..uptime });
    let mut command_line = process.command_line();
    if !command_line.config_yaml.is_empty() {
        // It may hold keys and tokens; /config_dump shows the configuration without them.
        command_line.config_yaml = String::from("[redacted]");
    }
    let info = ServerInfo {
        version: version(),
        state: process.state().into(),
        uptime_current_epoch: uptime,
        uptime_all_epochs: uptime,
        hot_restart_version: String::from("disabled"),
        command_line_options: Some(command_line),
        node: Some(process.snapshot().bootstrap.node.clone()),
        hot_restart_initializing: false,
    };
    json::answer(&info, Defaults::Print)
}

/// Revision, version, state of the sources, build and TLS library, as Envoy writes them.
fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("portreeve/{}/Clean/{build}/aws-lc", env!("CARGO_PKG_VERSION"))
}

/// Answers `/memory`. The allocator keeps no books that it shows, so all anonymous memory counts as allocated.
pub(super) fn memory() -> Answer {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let anonymous = bytes("RssAnon:").unwrap_or_default();
    let memory = Memory {
        allocated: anonymous,
        heap_size: anonymous,
        total_physical_bytes: bytes("VmRSS:").unwrap_or_default(),
        ..Memory::default()
    };
    json::answer(&memory, Defaults::Print)
}
