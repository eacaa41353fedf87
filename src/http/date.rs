//! The `date` header (RFC 9110 section 6.6.1), written once a second.

use std::{
    cell::{Cell, RefCell},
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;

/// A worker's clock for `date`.
#[derive(Debug)]
pub struct DateCache {
    second: Cell<u64>,
    value: RefCell<HeaderValue>,
}

impl DateCache {
    /// A clock that has not been read yet.
    pub fn new() -> DateCache {
        DateCache {
            second: Cell::new(0),
            value: RefCell::new(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT")),
        }
    }

    /// The current second.
    pub fn now(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second.replace(second)
            && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            *self.value.borrow_mut() = value;
        }
        self.value.borrow().clone()
    }
}

impl Default for DateCache {
    fn default() -> DateCache {
        DateCache::new()
    }
}
