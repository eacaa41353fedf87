//! `/ready`, `/server_info`, `/memory`: the process as a whole.

use http::StatusCode;

use super::{
    Process,
    endpoint::Answer,
    json::{self, Defaults},
};
use crate::{
    http_filters, network_filters,
    proto::{
        self,
        admin::{Memory, ServerInfo, server_info::State},
        core::{BuildVersion, Extension, Node, node::UserAgentVersionType},
        type_v3::SemanticVersion,
    },
    snapshot::Snapshot,
    sys,
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
        hot_restart_version: process.succession(),
        command_line_options: Some(command_line),
        node: Some(node(&process.snapshot())),
        hot_restart_initializing: false,
    };
    json::answer(&info, Defaults::Print)
}

/// Revision, version, state of the sources, build and TLS library, as Envoy writes them.
fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("portreeve/{}/Clean/{build}/aws-lc", env!("CARGO_PKG_VERSION"))
}

/// The node as the configuration names it, with what the program says of itself.
pub(super) fn node(snapshot: &Snapshot) -> Node {
    let number = |text: &str| text.parse().unwrap_or_default();
    let version = SemanticVersion {
        major_number: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor_number: number(env!("CARGO_PKG_VERSION_MINOR")),
        patch: number(env!("CARGO_PKG_VERSION_PATCH")),
    };
    let build = BuildVersion { version: Some(version), metadata: None };
    let extension = |category: &str, name: &str, type_name: &str| Extension {
        name: name.to_owned(),
        category: category.to_owned(),
        type_urls: vec![type_name.to_owned()],
        ..Extension::default()
    };
    let network = network_filters::FACTORIES.iter();
    let network = network.map(|filter| extension("envoy.filters.network", filter.name, filter.type_name));
    let http = http_filters::FACTORIES.iter();
    let http = http.map(|filter| extension("envoy.filters.http", filter.name, filter.type_name));
    Node {
        user_agent_name: env!("CARGO_PKG_NAME").to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
        extensions: network.chain(http).collect(),
        ..snapshot.bootstrap.node.clone()
    }
}

/// Answers `/memory`. The allocator keeps no books that it shows, so all anonymous memory counts as allocated.
pub(super) fn memory() -> Answer {
    let memory = sys::memory::Memory::now();
    let memory = Memory {
        allocated: memory.anonymous,
        heap_size: memory.anonymous,
        total_physical_bytes: memory.resident,
        ..Memory::default()
    };
    json::answer(&memory, Defaults::Print)
}
