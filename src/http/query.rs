//! Parameters of a request's query.

use std::borrow::Cow;

/// The first parameter of this name, as it was sent.
#[must_use]
pub fn value<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let parameters = query.unwrap_or_default().split('&');
    parameters
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .find_map(|(other, value)| (other == name).then_some(value))
}

/// The same with percent-encoding undone.
#[must_use]
pub fn decoded<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    let value = value(query, name)?;
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = value.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    Some(Cow::Owned(String::from_utf8_lossy(&decoded).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let of = |query| decoded(Some(query), "a").map(Cow::into_owned);
        assert_eq!(of("b=1&a=x%20y%2"), Some("x y%2".to_owned()));
        assert_eq!(of("a=plain&a=second"), Some("plain".to_owned()));
        assert_eq!(of("a"), Some(String::new()));
        assert_eq!(of("ab=1"), None);
    }
}
