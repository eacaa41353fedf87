//! Settings of HTTP/2, downstream and upstream alike (`envoy.config.core.v3.Http2ProtocolOptions`).

use std::time::Duration;

use super::Limits;
use crate::{
    config::Field,
    proto::{UInt32Value, core},
};

/// Settings of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most streams on a connection; the peer may allow fewer.
    pub max_concurrent_streams: u32,
    /// Bytes of one response that may wait in us.
    pub stream_window: u32,
    /// Bytes of all responses of a connection that may wait in us.
    pub connection_window: u32,
    /// Size of the peer's header compression table.
    pub header_table_size: Option<u32>,
    /// Extended CONNECT is offered to clients, and used to ask hosts for upgrades.
    pub allow_connect: bool,
    /// Bounds on what a peer may send for nothing.
    pub limits: Limits,
    /// How often an idle-looking peer is asked whether it lives.
    pub keepalive: Option<Keepalive>,
}

/// PINGs that prove a connection alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Time between one answer and the next question.
    pub interval: Duration,
    /// Time for the answer.
    pub timeout: Duration,
}

impl Default for Options {
    /// A stream's window bounds what one slow reader costs. The connection's is far larger, so that many slow readers do
    /// not stop the others.
    fn default() -> Options {
        Options {
            max_concurrent_streams: 1024,
            stream_window: 1024 * 1024,
            connection_window: 256 * 1024 * 1024,
            header_table_size: None,
            allow_connect: false,
            limits: Limits::default(),
            keepalive: None,
        }
    }
}

impl Options {
    /// Converts and checks; what is not set has its default.
    pub fn from_proto(proto: Option<&core::Http2ProtocolOptions>, field: Field<'_>) -> Options {
        let mut options = Options::default();
        let Some(proto) = proto else { return options };
        let core::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = proto;
        options.header_table_size = hpack_table_size.map(|size| size.value);
        if let Some(streams) = in_range("max_concurrent_streams", *max_concurrent_streams, 1, field) {
            options.max_concurrent_streams = streams;
        }
        if let Some(window) = in_range("initial_stream_window_size", *initial_stream_window_size, 65_535, field) {
            options.stream_window = window;
        }
        if let Some(window) = in_range("initial_connection_window_size", *initial_connection_window_size, 65_535, field)
        {
            options.connection_window = window;
        }
        if let Some(keepalive) = connection_keepalive {
            options.keepalive = Keepalive::from_proto(keepalive, field.key("connection_keepalive"));
        }
        options.allow_connect = *allow_connect;
        field.unsupported("allow_metadata", allow_metadata);
        field.ignored("max_metadata_size", max_metadata_size, "METADATA frames are not spoken");
        let why = "a peer that does not read is not read from, so that no more than 16 KiB of frames wait for it";
        field.ignored("max_outbound_frames", max_outbound_frames, why);
        field.ignored("max_outbound_control_frames", max_outbound_control_frames, why);
        let at_least_one = |name, value: &Option<UInt32Value>| {
            let value = value.as_ref()?.value;
            if value == 0 {
                field.key(name).error("must be at least 1");
            }
            Some(value)
        };
        let limits = &mut options.limits;
        if let Some(max) = max_consecutive_inbound_frames_with_empty_payload {
            limits.empty_frames = max.value;
        }
        if let Some(max) = max_inbound_priority_frames_per_stream {
            limits.priority_frames_per_stream = max.value;
        }
        let name = "max_inbound_window_update_frames_per_data_frame_sent";
        if let Some(max) = at_least_one(name, max_inbound_window_update_frames_per_data_frame_sent) {
            limits.window_updates_per_data_frame = max;
        }
        let why = "resets are bounded as overload.premature_reset_total_stream_count says";
        field.ignored("stream_reset_burst", stream_reset_burst, why);
        field.ignored("stream_reset_rate", stream_reset_rate, why);
        let why = "an invalid message ends its stream, not the connection";
        field.ignored("stream_error_on_invalid_http_messaging", stream_error_on_invalid_http_messaging, why);
        let stream_error = override_stream_error_on_invalid_http_message;
        field.ignored("override_stream_error_on_invalid_http_message", stream_error, why);
        field.unsupported("custom_settings_parameters", custom_settings_parameters);
        field.ignored("use_oghttp2_codec", use_oghttp2_codec, "there is one codec");
        field.ignored("enable_huffman_encoding", enable_huffman_encoding, "the encoder decides");
        field.ignored(
            "max_header_field_size_kb",
            max_header_field_size_kb,
            "max_response_headers_kb bounds each header too",
        );
        field.ignored("disallow_obs_text", disallow_obs_text, "header values are passed on as they are");
        options
    }
}

impl Keepalive {
    fn from_proto(proto: &core::KeepaliveSettings, field: Field<'_>) -> Option<Keepalive> {
        let core::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } = proto;
        field.ignored("interval_jitter", interval_jitter, "connections begin at different times");
        field.ignored("connection_idle_interval", connection_idle_interval, "set interval instead");
        field.required("timeout", timeout);
        let at_least_a_millisecond = |name, value| {
            let duration = field.duration(name, value)?;
            if duration < Duration::from_millis(1) {
                field.key(name).error("must be at least 0.001s");
            }
            Some(duration.max(Duration::from_millis(1)))
        };
        let timeout = at_least_a_millisecond("timeout", timeout);
        let interval = at_least_a_millisecond("interval", interval);
        Some(Keepalive { interval: interval?, timeout: timeout? })
    }
}

/// A number from `least` to what 31 bits hold, which is what HTTP/2 allows.
fn in_range(name: &'static str, value: Option<UInt32Value>, least: u32, field: Field<'_>) -> Option<u32> {
    const MOST: u32 = (1 << 31) - 1;
    let value = value?.value;
    if !(least..=MOST).contains(&value) {
        field.key(name).error(format!("must be from {least} to {MOST}"));
        return None;
    }
    Some(value)
}
