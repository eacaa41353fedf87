//! Compiled matchers: strings, regular expressions, request headers, address ranges, structured values, labels of hosts, paths by
//! template, and trees of all that (`xds.type.matcher.v3.Matcher`).

mod cidr;
mod header;
mod labels;
mod predicate;
mod regex;
mod string;
mod tree;
mod uri_template;
mod value;
mod xxh64;

pub use cidr::CidrRange;
pub use header::{HeaderMatcher, RequestHead, RequestHeader};
pub use labels::{LOAD_BALANCING, Labels, Lists, MetadataMatch};
pub use regex::{Regex, RegexRewrite};
pub use string::StringMatcher;
pub use tree::{Input, KeepMatching, MatchTree};
pub use uri_template::UriTemplate;
pub use value::{MetadataMatcher, ValueMatcher};
pub use xxh64::xxh64;
