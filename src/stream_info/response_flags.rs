//! Response flags: what went wrong with a request or a connection, by Envoy's names (`%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`).

/// A set of Envoy's response flags.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFlags {
    bits: u32,
    /// One more than the number of each bit, six bits for each, the first set lowest: in this order Envoy prints them.
    order: u64,
}

const BITS_PER_FLAG: u32 = 6;

/// Flag, `%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`.
const FLAGS: &[(ResponseFlags, &str, &str)] = &[
    (ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX", "UpstreamRetryLimitExceeded"),
    (ResponseFlags::UPSTREAM_OVERFLOW, "UO", "UpstreamOverflow"),
    (ResponseFlags::FAILED_LOCAL_HEALTH_CHECK, "LH", "FailedLocalHealthCheck"),
    (ResponseFlags::NO_HEALTHY_UPSTREAM, "UH", "NoHealthyUpstream"),
    (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "UT", "UpstreamRequestTimeout"),
    (ResponseFlags::LOCAL_RESET, "LR", "LocalReset"),
    (ResponseFlags::UPSTREAM_REMOTE_RESET, "UR", "UpstreamRemoteReset"),
    (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "UF", "UpstreamConnectionFailure"),
    (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "UC", "UpstreamConnectionTermination"),
    (ResponseFlags::NO_ROUTE_FOUND, "NR", "NoRouteFound"),
    (ResponseFlags::DELAY_INJECTED, "DI", "DelayInjected"),
    (ResponseFlags::FAULT_INJECTED, "FI", "FaultInjected"),
    (ResponseFlags::RATE_LIMITED, "RL", "RateLimited"),
    (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "DC", "DownstreamConnectionTermination"),
    (ResponseFlags::STREAM_IDLE_TIMEOUT, "SI", "StreamIdleTimeout"),
    (ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS, "IH", "InvalidEnvoyRequestHeaders"),
    (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "DPE", "DownstreamProtocolError"),
    (ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, "UMSDR", "UpstreamMaxStreamDurationReached"),
    (ResponseFlags::DURATION_TIMEOUT, "DT", "DurationTimeout"),
    (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "UPE", "UpstreamProtocolError"),
    (ResponseFlags::NO_CLUSTER_FOUND, "NC", "NoClusterFound"),
    (ResponseFlags::OVERLOAD_MANAGER, "OM", "OverloadManagerTerminated"),
    (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "DR", "DownstreamRemoteReset"),
];

impl ResponseFlags {
    /// Nothing went wrong.
    pub const NONE: ResponseFlags = ResponseFlags { bits: 0, order: 0 };
    /// Local service failed its health check.
    pub const FAILED_LOCAL_HEALTH_CHECK: ResponseFlags = ResponseFlags::single(0);
    /// No host could be chosen.
    pub const NO_HEALTHY_UPSTREAM: ResponseFlags = ResponseFlags::single(1);
    /// The route's timeout ran out.
    pub const UPSTREAM_REQUEST_TIMEOUT: ResponseFlags = ResponseFlags::single(2);
    /// We reset the stream.
    pub const LOCAL_RESET: ResponseFlags = ResponseFlags::single(3);
    /// The host reset the stream.
    pub const UPSTREAM_REMOTE_RESET: ResponseFlags = ResponseFlags::single(4);
    /// No connection to the host.
    pub const UPSTREAM_CONNECTION_FAILURE: ResponseFlags = ResponseFlags::single(5);
    /// The host closed the connection.
    pub const UPSTREAM_CONNECTION_TERMINATION: ResponseFlags = ResponseFlags::single(6);
    /// A circuit breaker is open.
    pub const UPSTREAM_OVERFLOW: ResponseFlags = ResponseFlags::single(7);
    /// No route matched.
    pub const NO_ROUTE_FOUND: ResponseFlags = ResponseFlags::single(8);
    /// The client closed the connection.
    pub const DOWNSTREAM_CONNECTION_TERMINATION: ResponseFlags = ResponseFlags::single(9);
    /// Nothing moved for the stream idle timeout.
    pub const STREAM_IDLE_TIMEOUT: ResponseFlags = ResponseFlags::single(10);
    /// The client broke the protocol.
    pub const DOWNSTREAM_PROTOCOL_ERROR: ResponseFlags = ResponseFlags::single(11);
    /// The host broke the protocol.
    pub const UPSTREAM_PROTOCOL_ERROR: ResponseFlags = ResponseFlags::single(12);
    /// `max_stream_duration` ran out.
    pub const UPSTREAM_MAX_STREAM_DURATION_REACHED: ResponseFlags = ResponseFlags::single(13);
    /// The route names a cluster that does not exist.
    pub const NO_CLUSTER_FOUND: ResponseFlags = ResponseFlags::single(14);
    /// The process is overloaded.
    pub const OVERLOAD_MANAGER: ResponseFlags = ResponseFlags::single(15);
    /// The client reset the stream.
    pub const DOWNSTREAM_REMOTE_RESET: ResponseFlags = ResponseFlags::single(16);

    /// Another attempt would have been due, and there had been enough.
    pub const UPSTREAM_RETRY_LIMIT_EXCEEDED: ResponseFlags = ResponseFlags::single(17);
    /// The headers by which a request orders the router about are wrong.
    pub const INVALID_ENVOY_REQUEST_HEADERS: ResponseFlags = ResponseFlags::single(18);
    /// A connection lasted as long as it may.
    pub const DURATION_TIMEOUT: ResponseFlags = ResponseFlags::single(19);

    /// A fault filter kept the request waiting.
    pub const DELAY_INJECTED: ResponseFlags = ResponseFlags::single(20);
    /// A fault filter answered.
    pub const FAULT_INJECTED: ResponseFlags = ResponseFlags::single(21);
    /// There were too many requests.
    pub const RATE_LIMITED: ResponseFlags = ResponseFlags::single(22);

    const fn single(bit: u32) -> ResponseFlags {
        ResponseFlags { bits: 1 << bit, order: bit as u64 + 1 }
    }

    /// Adds the flags of `other`, after those that are set already.
    pub fn set(&mut self, other: ResponseFlags) {
        for bit in other.bits_in_order() {
            if self.bits & 1 << bit == 0 {
                let place = u64::from(bit + 1).checked_shl(BITS_PER_FLAG * self.bits.count_ones());
                self.order |= place.unwrap_or_default();
                self.bits |= 1 << bit;
            }
        }
    }

    fn bits_in_order(self) -> impl Iterator<Item = u32> {
        let places = (0..u64::BITS / BITS_PER_FLAG).map(move |place| self.order >> (BITS_PER_FLAG * place) & 0x3f);
        places.filter_map(|bit| u32::try_from(bit).ok()?.checked_sub(1))
    }

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: ResponseFlags) -> bool {
        self.bits & other.bits == other.bits
    }

    /// Whether any flag of `other` is set.
    pub fn intersects(self, other: ResponseFlags) -> bool {
        self.bits & other.bits != 0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The short and the long names of the flags set, in the order in which they were set.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.bits_in_order().filter_map(|bit| {
            let row = FLAGS.iter().find(|(flag, ..)| flag.bits == 1 << bit);
            row.map(|(_, short, long)| (*short, *long))
        })
    }

    /// The flag with this short name, such as "UH".
    pub fn from_short_name(name: &str) -> Option<ResponseFlags> {
        FLAGS.iter().find(|(_, short, _)| *short == name).map(|(flag, ..)| *flag)
    }
}
