//! Options of Envoy that have no meaning here. Unit files and scripts that carry them keep working where leaving them out changes nothing
//! that matters; the others are refused with the reason.

use anyhow::bail;

/// Not shown in `--help`.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are switches")]
pub struct EnvoyOptions {
    #[arg(long, hide = true)]
    allow_unknown_fields: bool,
    #[arg(long, hide = true)]
    allow_unknown_static_fields: bool,
    #[arg(long, hide = true)]
    base_id: Option<String>,
    #[arg(long, hide = true)]
    base_id_path: Option<String>,
    #[arg(long, hide = true)]
    bootstrap_version: Option<String>,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
    #[arg(long, hide = true)]
    disable_extensions: Option<String>,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true, value_parser = ["gradual", "immediate"])]
    drain_strategy: Option<String>,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    enable_mutex_tracing: bool,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<String>,
    #[arg(long, hide = true)]
    ignore_unknown_dynamic_fields: bool,
    #[arg(long, hide = true, value_parser = ["v4", "v6"])]
    local_address_ip_version: Option<String>,
    #[arg(long, hide = true)]
    log_format_escaped: bool,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<String>,
    #[arg(long, hide = true)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    restart_epoch: Option<u32>,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    socket_path: Option<String>,
    #[arg(long, hide = true)]
    use_dynamic_base_id: bool,
}

const HOT_RESTART: &str = "there is no shared memory and no hot restart in Envoy's way";
const ALWAYS: &str = "it is always so";
const DYNAMIC: &str = "all configuration is static";
const NOT_YET: &str = "not implemented by Portreeve yet";

impl EnvoyOptions {
    /// What to tell the operator about the options that were given.
    ///
    /// # Errors
    /// An option was given without which the process would do something else than asked for.
    pub fn judge(&self) -> anyhow::Result<Vec<String>> {
        if self.allow_unknown_fields || self.allow_unknown_static_fields {
            bail!("--allow-unknown-static-fields is not possible: a misspelt rule must not vanish");
        }
        if self.disable_extensions.is_some() {
            bail!("--disable-extensions is {NOT_YET}");
        }
        if self.restart_epoch.is_some_and(|epoch| epoch > 0) {
            bail!("--restart-epoch is not possible: {HOT_RESTART}");
        }
        let given = [
            (self.base_id.is_some(), "base-id", HOT_RESTART),
            (self.base_id_path.is_some(), "base-id-path", HOT_RESTART),
            (self.bootstrap_version.is_some(), "bootstrap-version", "there is only version 3"),
            (self.cpuset_threads, "cpuset-threads", ALWAYS),
            (self.disable_hot_restart, "disable-hot-restart", HOT_RESTART),
            (self.drain_strategy.is_some(), "drain-strategy", "connections drain at once"),
            (self.enable_core_dump, "enable-core-dump", "the service manager decides on core dumps"),
            (self.enable_fine_grain_logging, "enable-fine-grain-logging", NOT_YET),
            (self.enable_mutex_tracing, "enable-mutex-tracing", "there is nothing to trace"),
            (self.file_flush_min_size_kb.is_some(), "file-flush-min-size-kb", "it is 64"),
            (self.ignore_unknown_dynamic_fields, "ignore-unknown-dynamic-fields", DYNAMIC),
            (
                self.local_address_ip_version.is_some(),
                "local-address-ip-version",
                "no address of ours is written anywhere",
            ),
            (self.log_format_escaped, "log-format-escaped", ALWAYS),
            (self.parent_shutdown_time_s.is_some(), "parent-shutdown-time-s", HOT_RESTART),
            (self.reject_unknown_dynamic_fields, "reject-unknown-dynamic-fields", DYNAMIC),
            (self.restart_epoch.is_some(), "restart-epoch", HOT_RESTART),
            (self.skip_deprecated_logs, "skip-deprecated-logs", "what is deprecated is not warned of"),
            (self.skip_hot_restart_on_no_parent, "skip-hot-restart-on-no-parent", HOT_RESTART),
            (self.skip_hot_restart_parent_stats, "skip-hot-restart-parent-stats", HOT_RESTART),
            (self.socket_mode.is_some(), "socket-mode", HOT_RESTART),
            (self.socket_path.is_some(), "socket-path", HOT_RESTART),
            (self.use_dynamic_base_id, "use-dynamic-base-id", HOT_RESTART),
        ];
        let notes = given.into_iter().filter(|(is_given, ..)| *is_given);
        Ok(notes.map(|(_, option, why)| format!("--{option} has no effect: {why}")).collect())
    }
}
