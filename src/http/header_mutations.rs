//! Headers that a configuration adds to messages and removes from them (`HeaderValueOption`).
//!
//! Names and constant values are made when the configuration is loaded; `%COMMANDS%` in values are filled in per message.

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use crate::{
    access_log::{Format, Scope, Style},
    config::Field,
    matcher::StringMatcher,
    proto::{
        self,
        core::header_value_option::HeaderAppendAction,
        mutation_rules::header_mutation::{Action, RemoveOnMatch},
    },
    stream_info::{HeaderCapture, StreamInfo},
};

/// What one level of a configuration does to the headers of requests or of responses.
#[derive(Debug, Default)]
pub struct HeaderMutations {
    remove: Vec<HeaderName>,
    set: Vec<Setting>,
}

/// Changes one after the other, each of what the former have left (`envoy.config.common.mutation_rules.v3.HeaderMutation`).
#[derive(Debug)]
pub struct OrderedMutations(Vec<Step>);

#[derive(Debug)]
enum Step {
    Remove(HeaderName),
    RemoveMatching(StringMatcher),
    Set(HeaderMutations),
}

impl OrderedMutations {
    /// Compiles a list of changes; `field` is that of the list.
    #[must_use]
    pub fn from_list(protos: &[proto::mutation_rules::HeaderMutation], field: Field<'_>) -> OrderedMutations {
        let steps = protos.iter().enumerate();
        OrderedMutations(steps.filter_map(|(i, proto)| Step::from_proto(proto, field.index(i))).collect())
    }

    /// Changes the headers of a request.
    pub fn apply_to_request(&self, headers: &mut HeaderMap, info: &StreamInfo) {
        for step in &self.0 {
            match step {
                Step::Remove(name) => {
                    headers.remove(name);
                }
                Step::RemoveMatching(matcher) => {
                    let matching = headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes()));
                    for name in matching.cloned().collect::<Vec<_>>() {
                        headers.remove(name);
                    }
                }
                Step::Set(mutations) => mutations.apply_to_request(headers, info),
            }
        }
    }
}

impl Step {
    fn from_proto(proto: &proto::mutation_rules::HeaderMutation, field: Field<'_>) -> Option<Step> {
        let proto::mutation_rules::HeaderMutation { action } = proto;
        match field.required("action", action)? {
            Action::Remove(name) => header_name(name, field.key("remove")).map(Step::Remove),
            Action::Append(option) => {
                let set = Setting::from_proto(option, field.key("append"))?;
                Some(Step::Set(HeaderMutations { remove: Vec::new(), set: vec![set] }))
            }
            Action::RemoveOnMatch(RemoveOnMatch { key_matcher }) => {
                let field = field.key("remove_on_match");
                let matcher = field.required("key_matcher", key_matcher)?;
                StringMatcher::from_proto(matcher, field.key("key_matcher")).map(Step::RemoveMatching)
            }
        }
    }
}

#[derive(Debug)]
struct Setting {
    name: HeaderName,
    value: Value,
    append: HeaderAppendAction,
    keep_empty: bool,
}

#[derive(Debug)]
enum Value {
    Constant(HeaderValue),
    Format(Format),
}

impl HeaderMutations {
    /// Compiles the two lists of a message; the fields are those of the lists.
    #[must_use]
    pub fn from_proto(
        (to_add, add_field): (&[proto::core::HeaderValueOption], Field<'_>),
        (to_remove, remove_field): (&[String], Field<'_>),
    ) -> HeaderMutations {
        let remove = to_remove.iter().enumerate().filter_map(|(i, name)| header_name(name, remove_field.index(i)));
        let set = to_add.iter().enumerate().filter_map(|(i, option)| Setting::from_proto(option, add_field.index(i)));
        HeaderMutations { remove: remove.collect(), set: set.collect() }
    }

    /// Changes the headers of a request.
    pub fn apply_to_request(&self, headers: &mut HeaderMap, info: &StreamInfo) {
        self.remove(headers);
        let values = self.values(headers, &Scope::of_request(info, headers));
        write(headers, values);
    }

    /// Changes the headers of a response. Of the request's headers, values can hold what [`HeaderMutations::capture`] asked for.
    pub fn apply_to_response(&self, headers: &mut HeaderMap, info: &StreamInfo) {
        self.remove(headers);
        let values = self.values(headers, &Scope::of_response(info, headers));
        write(headers, values);
    }

    fn remove(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// All values are made before any is written, so that none sees another setting's work.
    fn values(&self, headers: &HeaderMap, scope: &Scope<'_>) -> Vec<(&Setting, HeaderValue)> {
        let due = self.set.iter().filter(|setting| match setting.append {
            HeaderAppendAction::AddIfAbsent => !headers.contains_key(&setting.name),
            HeaderAppendAction::OverwriteIfExists => headers.contains_key(&setting.name),
            HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
        });
        due.filter_map(|setting| Some((setting, setting.value(scope)?))).collect()
    }

    /// Whether values depend on the message.
    #[must_use]
    pub fn has_formats(&self) -> bool {
        self.set.iter().any(|setting| matches!(setting.value, Value::Format(_)))
    }

    /// Asks for the request's headers that the values of responses need.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        for setting in &self.set {
            if let Value::Format(format) = &setting.value {
                format.capture(capture);
            }
        }
    }
}

/// Overwrites first, then adds.
fn write(headers: &mut HeaderMap, values: Vec<(&Setting, HeaderValue)>) {
    let (add, overwrite): (Vec<_>, Vec<_>) = values.into_iter().partition(|(setting, _)| {
        matches!(setting.append, HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::AddIfAbsent)
    });
    for (setting, value) in overwrite {
        headers.insert(setting.name.clone(), value);
    }
    for (setting, value) in add {
        headers.append(setting.name.clone(), value);
    }
}

impl Setting {
    fn from_proto(proto: &proto::core::HeaderValueOption, field: Field<'_>) -> Option<Setting> {
        let proto::core::HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
        let header = field.required("header", header)?;
        let header_field = field.key("header");
        let proto::core::HeaderValue { key, value, raw_value } = header;
        let name = header_name(key, header_field.key("key"));
        let value = if raw_value.is_empty() {
            Value::from_text(value, header_field.key("value"))
        } else {
            Value::from_raw(raw_value, header_field.key("raw_value"))
        };
        let append = match append.as_ref().map(|append| append.value) {
            None => HeaderAppendAction::try_from(*append_action).ok()?,
            Some(_) if *append_action != 0 => {
                field.key("append").error("cannot stand beside append_action");
                return None;
            }
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        };
        Some(Setting { name: name?, value: value?, append, keep_empty: *keep_empty_value })
    }

    fn value(&self, scope: &Scope<'_>) -> Option<HeaderValue> {
        let value = match &self.value {
            Value::Constant(value) => value.clone(),
            Value::Format(format) => {
                let mut bytes = Vec::new();
                format.render(scope, Style::HeaderValue, &mut bytes);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).ok()?
            }
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }
}

impl Value {
    fn from_text(text: &str, field: Field<'_>) -> Option<Value> {
        match Format::parse(text) {
            Ok(format) => match format.as_literal() {
                Some(literal) => Value::from_raw(literal.as_bytes(), field),
                None => Some(Value::Format(format)),
            },
            Err(error) => {
                field.error(error.to_string());
                None
            }
        }
    }

    fn from_raw(bytes: &[u8], field: Field<'_>) -> Option<Value> {
        let value = HeaderValue::from_bytes(bytes).ok();
        if value.is_none() {
            field.error("must not hold control characters");
        }
        value.map(Value::Constant)
    }
}

/// The name of a header that configurations may touch.
fn header_name(name: &str, field: Field<'_>) -> Option<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if name != HOST => Some(name),
        Err(_) if !name.starts_with(':') => {
            field.error("not a valid header name");
            None
        }
        _ => {
            field.error(":-prefixed or host headers may not be modified");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::core::{HeaderValue as HeaderProto, HeaderValueOption};

    use super::*;
    use crate::config::Report;

    fn option(key: &str, value: &str, append_action: i32) -> HeaderValueOption {
        let header = HeaderProto { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
        HeaderValueOption { header: Some(header), append_action, ..HeaderValueOption::default() }
    }

    fn mutations(add: &[HeaderValueOption], remove: &[&str]) -> Result<HeaderMutations, Vec<String>> {
        let report = Report::new();
        let root = Field::root(&report);
        let remove: Vec<_> = remove.iter().map(ToString::to_string).collect();
        let mutations = HeaderMutations::from_proto((add, root.key("add")), (&remove, root.key("remove")));
        let problems: Vec<_> = report.into_problems().iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(mutations) } else { Err(problems) }
    }

    fn applied(mutations: &HeaderMutations, lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        mutations.apply_to_request(&mut headers, &StreamInfo::sample());
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn append_actions() {
        for (action, present, absent) in [
            (0, &["x: old", "x: new"][..], &["x: new"][..]),
            (1, &["x: old"], &["x: new"]),
            (2, &["x: new"], &["x: new"]),
            (3, &["x: new"], &[]),
        ] {
            let mutations = mutations(&[option("X", "new", action)], &[]).unwrap();
            let mut expected = present.to_vec();
            expected.sort_unstable();
            assert_eq!(applied(&mutations, &[("x", "old")]), expected, "{action}");
            assert_eq!(applied(&mutations, &[]), absent, "{action}");
        }
    }

    #[test]
    fn the_old_append_field() {
        for (append, expected) in [(true, vec!["x: new", "x: old"]), (false, vec!["x: new"])] {
            let append = Some(proto::BoolValue { value: append });
            let mutations = mutations(&[HeaderValueOption { append, ..option("x", "new", 0) }], &[]).unwrap();
            assert_eq!(applied(&mutations, &[("x", "old")]), expected);
        }
        let append = Some(proto::BoolValue { value: true });
        let both = mutations(&[HeaderValueOption { append, ..option("x", "new", 2) }], &[]);
        assert_eq!(both.unwrap_err(), ["add[0].append: cannot stand beside append_action"]);
    }

    #[test]
    fn removal_goes_first_and_values_are_of_what_is_left() {
        let add =
            [option("x-copy", "%REQ(x-old)%%REQ(x-in)%", 0), option("x-in", "changed", 2), option("x-old", "again", 0)];
        let mutations = mutations(&add, &["X-Old"]).unwrap();
        assert!(mutations.has_formats());
        assert_eq!(
            applied(&mutations, &[("x-old", "gone"), ("x-in", "i")]),
            ["x-copy: i", "x-in: changed", "x-old: again"]
        );
    }

    #[test]
    fn empty_values_are_left_out_unless_kept() {
        let kept = HeaderValueOption { keep_empty_value: true, ..option("x-kept", "", 0) };
        let mutations = mutations(
            &[option("x-empty", "", 0), kept, option("x-none", "%REQ(nope)%", 0), option("x-pct", "100%%", 0)],
            &[],
        )
        .unwrap();
        assert_eq!(applied(&mutations, &[]), ["x-kept: ", "x-pct: 100%"]);
    }

    #[test]
    fn raw_values_hold_any_bytes() {
        let header = HeaderProto { key: "x".to_owned(), value: String::new(), raw_value: b"100% \xff".to_vec() };
        let mutations =
            mutations(&[HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }], &[]).unwrap();
        let mut headers = HeaderMap::new();
        mutations.apply_to_response(&mut headers, &StreamInfo::sample());
        assert_eq!(headers["x"].as_bytes(), b"100% \xff");
    }

    #[test]
    fn what_must_not_be_touched_is_refused() {
        let problems = mutations(
            &[
                option(":path", "/", 0),
                option("Host", "h", 0),
                option("a b", "", 0),
                option("x", "%NOPE%", 0),
                option("x", "a\nb", 0),
            ],
            &[":authority", "host"],
        )
        .unwrap_err();
        let untouchable = ":-prefixed or host headers may not be modified";
        assert_eq!(problems.len(), 7);
        for place in ["remove[0]", "remove[1]", "add[0].header.key", "add[1].header.key"] {
            assert!(problems.contains(&format!("{place}: {untouchable}")), "{problems:?}");
        }
        assert!(problems.contains(&"add[2].header.key: not a valid header name".to_owned()));
        assert!(problems.iter().any(|problem| problem.starts_with("add[3].header.value: ")));
        assert!(problems.contains(&"add[4].header.value: must not hold control characters".to_owned()));
    }
}
