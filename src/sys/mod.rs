//! The operating system, and the only unsafe code.

pub mod systemd;
