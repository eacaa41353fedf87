//! String and header matchers.
