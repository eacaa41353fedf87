//! HTTP filters, one file and one row each.
