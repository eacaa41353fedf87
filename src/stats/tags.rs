//! Tags: the parts of a stat's name that say which one of many it counts, as Envoy's default tag extractors find them.
