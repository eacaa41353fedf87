//! Compiled matchers: strings, regular expressions, request headers, address ranges.

mod cidr;
mod header;
mod regex;
mod string;

pub use cidr::CidrRange;
pub use header::HeaderMatcher;
pub use regex::{Regex, RegexRewrite};
pub use string::StringMatcher;
