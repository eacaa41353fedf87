//! What happened to one request: the sole input of access logs, statistics and spans.
