//! Access logs: filter, format and sink.
