//! Signals: what the process is told from outside.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::main_thread::Event;

/// Passes signals on as events for as long as anybody takes them.
///
/// # Errors
/// The handlers cannot be installed.
pub fn forward(events: mpsc::UnboundedSender<Event>) -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?;
    Ok(async move {
        while let Some(signal) = signals.next().await {
            let event = match signal {
                SIGUSR1 => Event::ReopenLogs,
                SIGHUP => Event::Reload,
                _ => Event::Terminate,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })
}
