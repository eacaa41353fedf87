//! The filter `envoy.filters.listener.original_dst`: where a connection was going before the kernel redirected it to us.

use super::Accepted;
use crate::net::Io;

/// Puts the original destination in the place of our address, if there was a redirection.
pub(super) fn restore(io: &Io, accepted: &mut Accepted) {
    if let Some(original) = io.original_destination() {
        accepted.local = original;
    }
}
