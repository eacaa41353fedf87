//! Addresses and byte streams.
