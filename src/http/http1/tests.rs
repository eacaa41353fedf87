//! The codec over a stream in memory.
