//! The only module that may hold unsafe code: sockets and systemd.
