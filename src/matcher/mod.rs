//! Compiled matchers: strings, regular expressions, request headers, address ranges, structured values, paths by template.

mod cidr;
mod header;
mod regex;
mod string;
mod uri_template;
mod value;

pub use cidr::CidrRange;
pub use header::HeaderMatcher;
pub use regex::{Regex, RegexRewrite};
pub use string::StringMatcher;
pub use uri_template::UriTemplate;
pub use value::{MetadataMatcher, ValueMatcher};
