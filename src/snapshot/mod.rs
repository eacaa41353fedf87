//! The one door: what is configured now, and how it changes.
