//! The parameters of an admin request: of its URL, or of the form that it carries.

/// Names and values in their order, decoded. A name without `=` has the empty value.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the query of a URL. As in Envoy a plus sign stays one, so that `filter=a+b` is the regular expression meant.
    pub(super) fn parse(query: &str) -> Self {
        Self(pairs(query).map(|(name, value)| (decode(name), decode(value))).collect())
    }

    /// Adds the fields of a form (`application/x-www-form-urlencoded`, where a plus sign is a space). A field left
    /// empty was not filled in.
    pub(super) fn extend_from_form(&mut self, form: &str) {
        let fields =
            pairs(form).map(|(name, value)| (decode(&name.replace('+', " ")), decode(&value.replace('+', " "))));
        self.0.extend(fields.filter(|(_, value)| !value.is_empty()));
    }

    /// The first value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Whether `name` is given, with whatever value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes percent signs; what is not a valid escape stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match tail {
            [high, low, tail @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = tail;
                }
                _ => bytes.push(*first),
            },
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::parse("usedonly&filter=%5Ea+b%2e*%&&x=%zz&x=2&caf%C3%A9=%ff");
        assert!(query.has("usedonly") && !query.has("used"));
        assert_eq!(query.get("filter"), Some("^a+b.*%"));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("café"), Some("\u{fffd}"));
        assert_eq!(query.iter().count(), 5);
        assert!(Query::parse("").is_empty());
    }

    #[test]
    fn a_form_adds_what_was_filled_in() {
        let mut query = Query::parse("a=1");
        query.extend_from_form("level=debug&paths=&group=x+y%2B");
        assert_eq!(query.iter().collect::<Vec<_>>(), [("a", "1"), ("level", "debug"), ("group", "x y+")]);
    }
}
