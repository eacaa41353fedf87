//! The operating system, and the only unsafe code.

pub mod socket;
pub mod systemd;
