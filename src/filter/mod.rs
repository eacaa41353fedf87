//! The extension contract: all that an author of a filter must read.
