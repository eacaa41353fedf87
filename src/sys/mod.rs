//! The operating system, and the only unsafe code.

pub mod memory;
pub mod socket;
pub mod systemd;
