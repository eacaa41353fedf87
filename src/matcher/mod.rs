//! Compiled matchers: strings, headers, address ranges.

mod cidr;
mod header;
mod string;

pub use cidr::CidrRange;
pub use header::HeaderMatcher;
pub use string::StringMatcher;
