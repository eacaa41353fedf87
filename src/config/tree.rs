//! A YAML or JSON document as a tree that knows where in the text its parts stand.
//!
//! Positions come for free: the parsers lend plain and simply quoted strings out of the text, so a key's address tells its
//! place. The parsers bound nesting and aliases; [`Budget`] bounds what nested aliases can expand to.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::position;

/// A value and the byte where it starts, if known.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub value: Value<'t>,
    pub at: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Value<'t> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Text<'t>),
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>),
}

/// A string. Plain means written without quotes, where YAML 1.1, which Envoy reads, knows more words and numbers than 1.2.
#[derive(Debug)]
pub(super) struct Text<'t> {
    pub text: Cow<'t, str>,
    pub plain: bool,
}

/// A key and its value. Keys may be given twice: whoever reads the mapping decides what that means.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_at: Option<usize>,
    pub node: Node<'t>,
}

/// Why a text is not a document.
#[derive(Debug, PartialEq)]
pub(super) struct SyntaxError {
    pub message: String,
    pub at: usize,
}

/// Reads the text as JSON if `name` says so or it looks like it, else as YAML.
pub(super) fn parse<'t>(name: &str, text: &'t str) -> Result<Node<'t>, SyntaxError> {
    let is_json =
        std::path::Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if is_json {
        return parse_json(text);
    }
    if text.trim_start().starts_with('{')
        && let Ok(node) = parse_json(text)
    {
        return Ok(node);
    }
    parse_yaml(text)
}

fn parse_json(text: &str) -> Result<Node<'_>, SyntaxError> {
    let budget = Budget::new(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let node = Builder { text, budget: &budget }.deserialize(&mut json).and_then(|node| json.end().map(|()| node));
    node.map_err(|error| SyntaxError {
        at: position::offset(text, error.line(), error.column()),
        message: in_plain_words(without_position(&error.to_string())),
    })
}

fn parse_yaml(text: &str) -> Result<Node<'_>, SyntaxError> {
    let budget = Budget::new(text);
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(document) = documents.next() else { return Ok(Node { value: Value::Null, at: None }) };
    let node = Builder { text, budget: &budget }.deserialize(document).map_err(|error| yaml_error(text, &error))?;
    for document in documents {
        let further =
            Builder { text, budget: &budget }.deserialize(document).map_err(|error| yaml_error(text, &error))?;
        if !matches!(further.value, Value::Null) {
            let message = "a second document begins: a configuration is one document".to_owned();
            return Err(SyntaxError { message, at: further.at.unwrap_or(text.len()) });
        }
    }
    Ok(node)
}

fn yaml_error(text: &str, error: &serde_yaml::Error) -> SyntaxError {
    let at = error.location().map_or(0, |location| position::offset(text, location.line(), location.column()));
    let mut message = in_plain_words(without_position(&error.to_string()));
    if text[at..].starts_with('\t') {
        message.push_str("; YAML is not indented by tabs");
    }
    SyntaxError { message, at }
}

/// The parsers' words for the two limits mean little to the author of a document.
fn in_plain_words(message: String) -> String {
    match message.as_str() {
        "recursion limit exceeded" => "is nested too deeply".to_owned(),
        "repetition limit exceeded" => TOO_MANY_VALUES.to_owned(),
        _ => message,
    }
}

const TOO_MANY_VALUES: &str = "aliases expand to too many values";

/// The parsers write the place into the message; it is shown in front of it here.
fn without_position(message: &str) -> String {
    let Some(start) = message.find(" at line ") else { return message.to_owned() };
    let tail = &message[start + " at line ".len()..];
    let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    let tail = tail.strip_prefix(" column ").unwrap_or(tail).trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{tail}", &message[..start])
}

/// How many values a document may hold: far more than its text can, unless aliases multiply them.
struct Budget {
    left: Cell<usize>,
}

impl Budget {
    fn new(text: &str) -> Budget {
        Budget { left: Cell::new(1_000_000 + text.len()) }
    }

    fn spend<E: Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom(TOO_MANY_VALUES))?;
        self.left.set(left);
        Ok(())
    }
}

/// Builds one node from what a parser finds.
#[derive(Clone, Copy)]
struct Builder<'b, 't> {
    text: &'t str,
    budget: &'b Budget,
}

impl<'t> DeserializeSeed<'t> for Builder<'_, 't> {
    type Value = Node<'t>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Node<'t>, D::Error> {
        self.budget.spend()?;
        deserializer.deserialize_any(self)
    }
}

/// A value that does not say where it stands.
fn nowhere(value: Value<'_>) -> Node<'_> {
    Node { value, at: None }
}

impl<'t> Visitor<'t> for Builder<'_, 't> {
    type Value = Node<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Integer(value.into())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Integer(value.into())))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Integer(value)))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node<'t>, E> {
        Ok(nowhere(i128::try_from(value).map_or(Value::Float(f64::INFINITY), Value::Integer)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Float(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node<'t>, E> {
        Ok(nowhere(Value::Text(Text { text: Cow::Owned(value.to_owned()), plain: false })))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'t str) -> Result<Node<'t>, E> {
        let at = position::within(self.text, value);
        let quoted = at > 0 && matches!(self.text.as_bytes()[at - 1], b'"' | b'\'');
        let text = Text { text: Cow::Borrowed(value), plain: !quoted };
        Ok(Node { value: Value::Text(text), at: Some(at - usize::from(quoted)) })
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut access: A) -> Result<Node<'t>, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element_seed(self)? {
            list.push(node);
        }
        let at = list.first().and_then(|node| node.at);
        Ok(Node { value: Value::List(list), at })
    }

    fn visit_map<A: MapAccess<'t>>(self, mut access: A) -> Result<Node<'t>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(KeyBuilder(self))? {
            let mut node = access.next_value_seed(self)?;
            if node.at.is_none() {
                node.at = key.end.map(|end| position::of_value_after(self.text, end));
            }
            if !key.ignored {
                entries.push(Entry { key: key.name, key_at: key.at, node });
            }
        }
        let at = entries.first().and_then(|entry| entry.key_at);
        Ok(Node { value: Value::Map(entries), at })
    }

    /// A tagged value. Envoy heeds no tags on values.
    fn visit_enum<A: EnumAccess<'t>>(self, access: A) -> Result<Node<'t>, A::Error> {
        let (_tag, content) = access.variant::<String>()?;
        content.newtype_variant_seed(self)
    }
}

/// A mapping's key, with the bytes where it starts and ends.
struct Key<'t> {
    name: Cow<'t, str>,
    at: Option<usize>,
    end: Option<usize>,
    ignored: bool,
}

/// Builds keys: strings, and what YAML takes for numbers and words as they are written.
#[derive(Clone, Copy)]
struct KeyBuilder<'b, 't>(Builder<'b, 't>);

impl<'t> DeserializeSeed<'t> for KeyBuilder<'_, 't> {
    type Value = Key<'t>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Key<'t>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl KeyBuilder<'_, '_> {
    fn nowhere<'t>(key: impl fmt::Display) -> Key<'t> {
        Key { name: Cow::Owned(key.to_string()), at: None, end: None, ignored: false }
    }
}

impl<'t> Visitor<'t> for KeyBuilder<'_, 't> {
    type Value = Key<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name as the key of a mapping")
    }

    fn visit_unit<E: Error>(self) -> Result<Key<'t>, E> {
        Ok(Self::nowhere("null"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Key<'t>, E> {
        Ok(Self::nowhere(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Key<'t>, E> {
        Ok(Self::nowhere(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Key<'t>, E> {
        Ok(Self::nowhere(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Key<'t>, E> {
        Ok(Self::nowhere(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Key<'t>, E> {
        Ok(Self::nowhere(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'t str) -> Result<Key<'t>, E> {
        let at = position::within(self.0.text, value);
        Ok(Key { name: Cow::Borrowed(value), at: Some(at), end: Some(at + value.len()), ignored: false })
    }

    /// A tagged key: Envoy drops the entry if the tag is `!ignore`, which is where files keep their anchors.
    fn visit_enum<A: EnumAccess<'t>>(self, access: A) -> Result<Key<'t>, A::Error> {
        let (tag, content) = access.variant::<String>()?;
        let key = content.newtype_variant_seed(self)?;
        Ok(Key { ignored: tag == "ignore", ..key })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn yaml(text: &str) -> Node<'_> {
        parse("test.yaml", text).expect("valid YAML")
    }

    fn entry<'n, 't>(node: &'n Node<'t>, key: &str) -> &'n Entry<'t> {
        let Value::Map(entries) = &node.value else { panic!("a mapping") };
        entries.iter().find(|entry| entry.key == key).expect("the key")
    }

    #[test]
    fn values_know_where_they_stand() {
        let text = "a: 'x'\nb:\n  # note\n  - c: 1.50\n    d: {}\ne: &anchor true\n";
        let root = yaml(text);
        let place = |node: &Node<'_>| &text[node.at.expect("a place")..];
        assert!(place(&entry(&root, "a").node).starts_with("'x'"));
        let list = &entry(&root, "b").node;
        assert!(place(list).starts_with("c: 1.50"));
        let Value::List(items) = &list.value else { panic!("a list") };
        assert!(place(&entry(&items[0], "c").node).starts_with("1.50"));
        assert!(place(&entry(&items[0], "d").node).starts_with("{}"));
        assert!(place(&entry(&root, "e").node).starts_with("true"));
    }

    #[test]
    fn plain_and_quoted_strings_differ() {
        let root = yaml("a: on\nb: \"on\"\n");
        assert!(matches!(&entry(&root, "a").node.value, Value::Text(Text { plain: true, .. })));
        assert!(matches!(&entry(&root, "b").node.value, Value::Text(Text { plain: false, .. })));
    }

    #[test]
    fn entries_tagged_ignore_are_dropped_and_their_anchors_kept() {
        let root = yaml("!ignore shared: &port 80\nport: *port\nother: !tag 1\n");
        let Value::Map(entries) = &root.value else { panic!("a mapping") };
        assert_eq!(entries.iter().map(|entry| entry.key.as_ref()).collect::<Vec<_>>(), ["port", "other"]);
        assert!(matches!(entry(&root, "port").node.value, Value::Integer(80)));
        assert!(matches!(entry(&root, "other").node.value, Value::Integer(1)));
    }

    #[test]
    fn json_is_read_as_json() {
        let text = "{\n\t\"a\": \"\\ud83d\\ude00\",\n\t\"b\": [1, -2, 2.5, null, true]\n}";
        let root = yaml(text);
        assert!(matches!(&entry(&root, "a").node.value, Value::Text(text) if text.text == "\u{1f600}"));
        assert!(matches!(&entry(&root, "b").node.value, Value::List(items) if items.len() == 5));
        let error = parse("x.json", "{\"a\": }").expect_err("broken JSON");
        assert_eq!((error.message.as_str(), error.at), ("expected value", 6));
    }

    #[test]
    fn a_syntax_error_has_its_place_outside_of_its_message() {
        let error = parse("x.yaml", "a: 1\nb: [1, 2\nc: 3\n").expect_err("broken YAML");
        assert_eq!(error.message, "did not find expected ',' or ']', while parsing a flow sequence at line 2 column 4");
        assert_eq!(error.at, 15);
        let error = parse("x.yaml", "a:\n\tb: 1\n").expect_err("a tab");
        assert!(error.message.ends_with("not indented by tabs"), "{}", error.message);
    }

    #[test]
    fn a_second_document_is_refused_at_its_place() {
        let error = parse("x.yaml", "a: 1\n---\nb: 2\n").expect_err("two documents");
        assert_eq!(error.at, 9);
        assert!(parse("x.yaml", "---\na: 1\n---\n").is_ok(), "an empty one at the end is none");
        assert!(matches!(yaml("").value, Value::Null));
    }

    #[test]
    fn bombs_are_refused() {
        let mut nested = "[".repeat(2000);
        nested.push_str(&"]".repeat(2000));
        assert_eq!(parse("x.yaml", &nested).expect_err("deep").message, "is nested too deeply");
        let mut aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, next) in ('a'..='y').zip('b'..='z') {
            let six = format!("*{this}, ").repeat(6);
            writeln!(aliases, "{next}: &{next} [{six}]").expect("a string grows");
        }
        assert!(parse("x.yaml", &aliases).is_err());
        let list = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(5000), "*a, ".repeat(2000));
        let error = parse("x.yaml", &list).expect_err("many");
        assert!(error.message.ends_with("aliases expand to too many values"), "{}", error.message);
    }
}
