//! The operating system, and the only unsafe code.

pub mod channel;
pub mod memory;
pub mod notify;
pub mod socket;
pub mod socket_option;
pub mod spawn;
pub mod systemd;
