//! Constraints on strings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use prost_reflect::DynamicMessage;
use regex::Regex;

use super::bounds::Length;

/// What `validate.StringRules` asks of a string.
pub(super) struct TextRules {
    exactly: Option<String>,
    characters: Length,
    bytes: Length,
    pattern: Option<Regex>,
    prefix: Option<String>,
    suffix: Option<String>,
    part: Option<String>,
    absent: Option<String>,
    allowed: Vec<String>,
    forbidden: Vec<String>,
    form: Option<Form>,
    /// An empty string satisfies all of it.
    ignore_empty: bool,
}

/// A form that a string must have.
#[derive(Clone, Copy)]
enum Form {
    Address,
    Email,
    HeaderName { strict: bool },
    HeaderValue { strict: bool },
    Hostname,
    Ip,
    Ipv4,
    Ipv6,
    Uri,
    UriReference,
    Uuid,
}

impl TextRules {
    pub fn of(rules: &DynamicMessage) -> TextRules {
        let field = |name| rules.get_field_by_name(name).filter(|_| rules.has_field_by_name(name));
        let text = |name| field(name).and_then(|value| Some(value.as_str()?.to_owned()));
        let number = |name| field(name).and_then(|value| value.as_u64());
        let texts = |name| {
            let values = field(name);
            let texts = values.as_ref().and_then(|values| values.as_list()).unwrap_or_default();
            texts.iter().filter_map(|value| Some(value.as_str()?.to_owned())).collect()
        };
        TextRules {
            exactly: text("const"),
            characters: Length { exactly: number("len"), at_least: number("min_len"), at_most: number("max_len") },
            bytes: Length { exactly: number("len_bytes"), at_least: number("min_bytes"), at_most: number("max_bytes") },
            pattern: text("pattern").and_then(|pattern| Regex::new(&pattern).ok()),
            prefix: text("prefix"),
            suffix: text("suffix"),
            part: text("contains"),
            absent: text("not_contains"),
            allowed: texts("in"),
            forbidden: texts("not_in"),
            form: Form::of(rules),
            ignore_empty: field("ignore_empty").and_then(|value| value.as_bool()).unwrap_or(false),
        }
    }

    /// Why `text` does not satisfy the constraints.
    pub fn violation(&self, text: &str) -> Option<String> {
        if self.ignore_empty && text.is_empty() {
            return None;
        }
        let length = self.characters.violation(text.chars().count(), "characters");
        if let Some(length) = length.or_else(|| self.bytes.violation(text.len(), "bytes")) {
            return Some(length);
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| allowed == text) {
            return Some(format!("must be one of {}", self.allowed.join(", ")));
        }
        if self.forbidden.iter().any(|forbidden| forbidden == text) {
            return Some(format!("must not be one of {}", self.forbidden.join(", ")));
        }
        self.part_violation(text).or_else(|| self.form.and_then(|form| form.violation(text)))
    }

    fn part_violation(&self, text: &str) -> Option<String> {
        if let Some(exactly) = self.exactly.as_ref().filter(|exactly| *exactly != text) {
            return Some(format!("must be {exactly:?}"));
        }
        if let Some(prefix) = self.prefix.as_ref().filter(|prefix| !text.starts_with(prefix.as_str())) {
            return Some(format!("must begin with {prefix:?}"));
        }
        if let Some(suffix) = self.suffix.as_ref().filter(|suffix| !text.ends_with(suffix.as_str())) {
            return Some(format!("must end with {suffix:?}"));
        }
        if let Some(part) = self.part.as_ref().filter(|part| !text.contains(part.as_str())) {
            return Some(format!("must contain {part:?}"));
        }
        if let Some(absent) = self.absent.as_ref().filter(|absent| text.contains(absent.as_str())) {
            return Some(format!("must not contain {absent:?}"));
        }
        let pattern = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text))?;
        Some(format!("must match the expression {pattern}"))
    }
}

impl Form {
    fn of(rules: &DynamicMessage) -> Option<Form> {
        let flag = |name| rules.get_field_by_name(name).and_then(|value| value.as_bool()).unwrap_or(false);
        let strict = flag("strict");
        let header = rules.get_field_by_name("well_known_regex").and_then(|value| value.as_enum_number());
        match header {
            Some(1) => return Some(Form::HeaderName { strict }),
            Some(2) => return Some(Form::HeaderValue { strict }),
            _ => {}
        }
        let forms = [
            ("address", Form::Address),
            ("email", Form::Email),
            ("hostname", Form::Hostname),
            ("ip", Form::Ip),
            ("ipv4", Form::Ipv4),
            ("ipv6", Form::Ipv6),
            ("uri", Form::Uri),
            ("uri_ref", Form::UriReference),
            ("uuid", Form::Uuid),
        ];
        forms.into_iter().find(|(name, _)| flag(name)).map(|(_, form)| form)
    }

    fn violation(self, text: &str) -> Option<String> {
        let (fits, form) = match self {
            Form::Address => (is_hostname(text) || text.parse::<IpAddr>().is_ok(), "a host name or an IP address"),
            Form::Email => (text.split_once('@').is_some_and(|(_, host)| is_hostname(host)), "a mail address"),
            Form::HeaderName { strict } => (is_header_name(text, strict), "the name of a header"),
            Form::HeaderValue { strict } => (is_header_value(text, strict), "a value that a header can have"),
            Form::Hostname => (is_hostname(text), "a host name"),
            Form::Ip => (text.parse::<IpAddr>().is_ok(), "an IP address"),
            Form::Ipv4 => (text.parse::<Ipv4Addr>().is_ok(), "an IPv4 address"),
            Form::Ipv6 => (text.parse::<Ipv6Addr>().is_ok(), "an IPv6 address"),
            Form::Uri => (text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()), "an absolute URI"),
            Form::UriReference => (text.parse::<http::Uri>().is_ok(), "a URI"),
            Form::Uuid => (is_uuid(text), "a UUID"),
        };
        (!fits).then(|| format!("must be {form}"))
    }
}

/// Loosely, whatever does not end a line. Whether there must be a name at all is a question of its length.
fn is_header_name(text: &str, strict: bool) -> bool {
    let name = text.strip_prefix(':').filter(|_| strict).unwrap_or(text);
    let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&byte);
    let fits = |byte| if strict { in_token(byte) } else { !matches!(byte, 0 | b'\r' | b'\n') };
    name.bytes().all(fits)
}

fn is_header_value(text: &str, strict: bool) -> bool {
    let visible = |byte: u8| byte == b'\t' || !byte.is_ascii_control();
    text.bytes().all(|byte| if strict { visible(byte) } else { !matches!(byte, 0 | b'\r' | b'\n') })
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    let fits = |(position, byte): (usize, u8)| {
        if hyphens.contains(&position) { byte == b'-' } else { byte.is_ascii_hexdigit() }
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_judged_loosely_or_strictly() {
        assert!(is_header_name("x-a", true) && is_header_name(":path", true));
        assert!(!is_header_name("x a", true) && is_header_name("x a", false));
        assert!(is_header_name("", false) && !is_header_name("a\nb", false));
        assert!(is_header_value("a\tb", true) && is_header_value("", true));
        assert!(!is_header_value("a\x01", true) && is_header_value("a\x01", false));
        assert!(!is_header_value("a\r", false));
    }

    #[test]
    fn hosts_addresses_and_the_like_are_known() {
        let fits = |form: Form, text| form.violation(text).is_none();
        assert!(fits(Form::Hostname, "a-b.example.") && !fits(Form::Hostname, "-a") && !fits(Form::Hostname, "a..b"));
        assert!(fits(Form::Address, "::1") && fits(Form::Address, "localhost") && !fits(Form::Ip, "localhost"));
        assert!(fits(Form::Ipv4, "1.2.3.4") && !fits(Form::Ipv4, "::1") && fits(Form::Ipv6, "::1"));
        assert!(fits(Form::Uri, "http://a/") && !fits(Form::Uri, "/a") && fits(Form::UriReference, "/a"));
        assert!(fits(Form::Email, "a@b.c") && !fits(Form::Email, "a"));
        assert!(fits(Form::Uuid, "0123abcd-0123-0123-0123-0123456789ab") && !fits(Form::Uuid, "0123"));
    }
}
