//! What the tests are written in: a Portreeve process, upstreams, clients and certificates.
//!
//! Nothing here knows a fixed port or waits for a fixed time: ports are 0, and whoever waits, waits for an event, with
//! `within` as the limit that turns a hang into a failure.

pub mod certificates;
pub mod client;
pub mod message;
pub mod portreeve;
pub mod upstream;

use std::{future::Future, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection of either side, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Waits for `future`, and fails the test after ten seconds.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(Duration::from_secs(10), future).await;
        outcome.unwrap_or_else(|_| panic!("{what} took more than ten seconds, at {caller}"))
    }
}
