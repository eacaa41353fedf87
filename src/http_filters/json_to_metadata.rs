//! `envoy.filters.http.json_to_metadata`: writes fields of JSON bodies into the dynamic metadata, where routes, access logs and balancers
//! look.
//!
//! A body of a fitting content type is collected first; other messages pass as they come. The most specific rules count as a whole.

use std::{mem, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value as Json;

use crate::{
    config::Field,
    filter::{
        DEFAULT_BUFFER_LIMIT, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream},
    },
    http::{Request, Response, body::Body, local_reply::LocalReply},
    matcher::Regex,
    proto::{
        Value,
        json_to_metadata::{
            JsonToMetadata as Proto,
            json_to_metadata::{
                KeyValuePair, MatchRules, Rule as RuleProto, Selector, ValueType, key_value_pair, selector,
            },
        },
        value::Kind,
    },
    route::FilterSettingsFactory,
    stats::{Counter, Registry, Scope},
    stream_info::StreamInfo,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: NAME,
    type_name: "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
    from_proto: |any, field, cx| {
        let rules = Rules::from_proto(&field.unpack(any)?, field, &cx.filter_stats("json_to_metadata"))?;
        Some(Arc::new(Filter(Arc::new(rules))))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, stats: &Arc<Registry>| {
        let rules = Rules::from_proto(&field.unpack(any)?, field, &stats.scope("json_to_metadata"))?;
        if rules.request.is_none() && rules.response.is_none() {
            field.error(
                "json_to_metadata_filter: Per route configs must at least specify either request or response rules",
            );
            return None;
        }
        Some(Arc::new(rules))
    },
};

/// Also the namespace of what names none.
const NAME: &str = "envoy.filters.http.json_to_metadata";

/// Longer values are not written, in bytes.
const MAX_VALUE: usize = 8 * 1024;

#[derive(Debug)]
struct Filter(Arc<Rules>);

/// A checked `JsonToMetadata`.
#[derive(Debug)]
struct Rules {
    request: Option<BodyRules>,
    response: Option<BodyRules>,
}

/// What is done with the bodies of one direction.
#[derive(Debug)]
struct BodyRules {
    rules: Vec<Rule>,
    content_types: Vec<String>,
    content_type_pattern: Option<Regex>,
    allows_no_content_type: bool,
    stats: BodyStats,
}

/// Under `json_to_metadata.rq.` and `json_to_metadata.resp.`
#[derive(Debug)]
struct BodyStats {
    success: Counter,
    mismatched_content_type: Counter,
    no_body: Counter,
    invalid_json_body: Counter,
}

#[derive(Debug)]
struct Rule {
    /// From the root of the body.
    path: Vec<String>,
    present: Option<Target>,
    missing: Option<Target>,
    /// Of bodies that are no JSON.
    error: Option<Target>,
}

/// Where something is written, and as what.
#[derive(Debug)]
struct Target {
    namespace: String,
    key: String,
    /// In place of what the body says.
    value: Option<Value>,
    kind: ValueType,
    preserves: bool,
}

impl Rules {
    fn from_proto(proto: &Proto, field: Field<'_>, scope: &Scope) -> Option<Rules> {
        let Proto { request_rules, response_rules } = proto;
        if request_rules.is_none() && response_rules.is_none() {
            field.error("json_to_metadata_filter: at least one of request_rules and response_rules must be set");
            return None;
        }
        let convert = |rules: &Option<MatchRules>, key, scope: &Scope| match rules {
            Some(rules) => BodyRules::from_proto(rules, field.key(key), scope).map(Some),
            None => Some(None),
        };
        let request = convert(request_rules, "request_rules", &scope.scope("rq"));
        let response = convert(response_rules, "response_rules", &scope.scope("resp"));
        Some(Rules { request: request?, response: response? })
    }
}

impl BodyRules {
    fn from_proto(proto: &MatchRules, field: Field<'_>, scope: &Scope) -> Option<BodyRules> {
        let MatchRules { rules, allow_content_types, allow_empty_content_type, allow_content_types_regex } = proto;
        let list = field.key("rules");
        let rules = rules.iter().enumerate().map(|(index, rule)| Rule::from_proto(rule, list.index(index)));
        let pattern = match allow_content_types_regex {
            Some(regex) => Some(Regex::from_proto(regex, field.key("allow_content_types_regex"))?),
            None => None,
        };
        let json = || vec!["application/json".to_owned()];
        Some(BodyRules {
            rules: rules.collect::<Option<_>>()?,
            content_types: if allow_content_types.is_empty() { json() } else { allow_content_types.clone() },
            content_type_pattern: pattern,
            allows_no_content_type: *allow_empty_content_type,
            stats: BodyStats {
                success: scope.counter("success"),
                mismatched_content_type: scope.counter("mismatched_content_type"),
                no_body: scope.counter("no_body"),
                invalid_json_body: scope.counter("invalid_json_body"),
            },
        })
    }

    fn accepts(&self, headers: &HeaderMap) -> bool {
        let found = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
        if found.is_empty() {
            return self.allows_no_content_type;
        }
        self.content_types.iter().any(|allowed| allowed.as_bytes() == found)
            || self.content_type_pattern.as_ref().is_some_and(|pattern| pattern.matches(found))
    }

    /// Reads a body whole and leaves it in its place; false if it is too large.
    async fn apply(&self, headers: &HeaderMap, body: &mut Body, info: &mut StreamInfo) -> bool {
        if !self.accepts(headers) {
            self.stats.mismatched_content_type.inc();
            return true;
        }
        if http_body::Body::is_end_stream(body) {
            self.write_all(|rule| rule.missing.as_ref(), info);
            self.stats.no_body.inc();
            return true;
        }
        let Ok(collected) = Limited::new(mem::take(body), DEFAULT_BUFFER_LIMIT).collect().await else { return false };
        let trailers = collected.trailers().cloned();
        let bytes = collected.to_bytes();
        self.read(&bytes, info);
        *body = with_trailers(bytes, trailers);
        true
    }

    fn read(&self, bytes: &[u8], info: &mut StreamInfo) {
        if bytes.is_empty() {
            self.write_all(|rule| rule.missing.as_ref(), info);
            self.stats.no_body.inc();
            return;
        }
        let Ok(json) = serde_json::from_slice::<Json>(bytes) else {
            self.write_all(|rule| rule.error.as_ref(), info);
            self.stats.invalid_json_body.inc();
            return;
        };
        for rule in &self.rules {
            rule.apply(&json, info);
        }
        self.stats.success.inc();
    }

    fn write_all(&self, target: impl Fn(&Rule) -> Option<&Target>, info: &mut StreamInfo) {
        for target in self.rules.iter().filter_map(target) {
            target.write(target.value.clone(), info);
        }
    }
}

fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    match trailers {
        None => Body::full(bytes),
        Some(trailers) => {
            let body = Full::new(bytes).map_err(|never| match never {});
            Body::boxed(body.with_trailers(std::future::ready(Some(Ok(trailers)))))
        }
    }
}

impl Rule {
    /// The messages are Envoy's.
    fn from_proto(proto: &RuleProto, field: Field<'_>) -> Option<Rule> {
        let RuleProto { selectors, on_present, on_missing, on_error } = proto;
        let valueless = |pair: &Option<KeyValuePair>| pair.as_ref().is_some_and(|pair| pair.value_type.is_none());
        let mistake = if on_present.is_none() && on_missing.is_none() {
            Some("json to metadata filter: neither `on_present` nor `on_missing` set")
        } else if valueless(on_missing) {
            Some("json to metadata filter: cannot specify on_missing rule with empty value")
        } else if valueless(on_error) {
            Some("json to metadata filter: cannot specify on_error rule with empty value")
        } else {
            None
        };
        if let Some(mistake) = mistake {
            field.error(mistake);
            return None;
        }
        let path = selectors.iter().filter_map(|Selector { selector }| match selector {
            Some(selector::Selector::Key(key)) => Some(key.clone()),
            None => None,
        });
        Some(Rule {
            path: path.collect(),
            present: on_present.as_ref().map(Target::from_proto),
            missing: on_missing.as_ref().map(Target::from_proto),
            error: on_error.as_ref().map(Target::from_proto),
        })
    }

    fn apply(&self, json: &Json, info: &mut StreamInfo) {
        let found = self.path.iter().try_fold(json, |json, key| json.as_object()?.get(key));
        let value = found.filter(|found| !found.is_null() && !found.is_object() && !found.is_array());
        match (value, &self.present) {
            (Some(_), None) => {}
            (Some(value), Some(target)) => match target.value.clone().map_or_else(|| target.convert(value), Ok) {
                Ok(value) => target.write(Some(value), info),
                Err(NotWritten::Empty) => {}
                Err(NotWritten::Unfit) => self.write_missing(info),
            },
            (None, _) => self.write_missing(info),
        }
    }

    fn write_missing(&self, info: &mut StreamInfo) {
        if let Some(target) = &self.missing {
            target.write(target.value.clone(), info);
        }
    }
}

/// Why a value is not written.
enum NotWritten {
    Empty,
    /// Too long, or no number where one is wanted: as if it were not there.
    Unfit,
}

impl Target {
    fn from_proto(proto: &KeyValuePair) -> Target {
        let KeyValuePair { metadata_namespace, key, r#type, preserve_existing_metadata_value, value_type } = proto;
        Target {
            namespace: if metadata_namespace.is_empty() { NAME.to_owned() } else { metadata_namespace.clone() },
            key: key.clone(),
            value: value_type.as_ref().map(|key_value_pair::ValueType::Value(value)| value.clone()),
            kind: ValueType::try_from(*r#type).unwrap_or(ValueType::ProtobufValue),
            preserves: *preserve_existing_metadata_value,
        }
    }

    fn convert(&self, json: &Json) -> Result<Value, NotWritten> {
        let kind = match (self.kind, json) {
            (ValueType::ProtobufValue, Json::Bool(flag)) => Kind::BoolValue(*flag),
            (ValueType::ProtobufValue, Json::Number(number)) => {
                Kind::NumberValue(number.as_f64().ok_or(NotWritten::Unfit)?)
            }
            (ValueType::ProtobufValue, Json::String(text)) => Kind::StringValue(text.clone()),
            (ValueType::Number, Json::Bool(flag)) => Kind::NumberValue(f64::from(u8::from(*flag))),
            (ValueType::Number, Json::Number(number)) => Kind::NumberValue(number.as_f64().ok_or(NotWritten::Unfit)?),
            (ValueType::Number, Json::String(text)) => {
                Kind::NumberValue(text.trim().parse().map_err(|_| NotWritten::Unfit)?)
            }
            (ValueType::String, Json::Bool(flag)) => Kind::StringValue(u8::from(*flag).to_string()),
            (ValueType::String, Json::Number(number)) => Kind::StringValue(match (number.is_f64(), number.as_f64()) {
                (true, Some(number)) => format!("{number:.6}"),
                _ => number.to_string(),
            }),
            (ValueType::String, Json::String(text)) if text.is_empty() => return Err(NotWritten::Empty),
            (ValueType::String, Json::String(text)) => Kind::StringValue(text.clone()),
            (_, Json::Null | Json::Array(_) | Json::Object(_)) => return Err(NotWritten::Unfit),
        };
        match &kind {
            Kind::StringValue(text) if text.len() > MAX_VALUE => Err(NotWritten::Unfit),
            _ => Ok(Value { kind: Some(kind) }),
        }
    }

    fn write(&self, value: Option<Value>, info: &mut StreamInfo) {
        let Some(value) = value else { return };
        let metadata = info.dynamic_metadata.entry(self.namespace.clone()).or_default();
        if !self.preserves || !metadata.fields.contains_key(&self.key) {
            metadata.fields.insert(self.key.clone(), value);
        }
    }
}

impl HttpFilterConfig for Filter {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Reader(place.settings().unwrap_or_else(|| Arc::clone(&self.0))))
    }
}

/// The filter on one stream.
struct Reader(Arc<Rules>);

impl HttpFilter for Reader {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        Box::pin(async move {
            let Some(rules) = &self.0.request else { return Decoded::Continue };
            let mut body = mem::take(request.body_mut());
            let fits = rules.apply(request.headers(), &mut body, &mut stream.info).await;
            *request.body_mut() = body;
            if fits {
                return Decoded::Continue;
            }
            let reply = LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large");
            Decoded::Reply(LocalReply { body: "Payload Too Large".into(), ..reply })
        })
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            let Some(rules) = &self.0.response else { return };
            let mut body = mem::take(response.body_mut());
            let fits = rules.apply(response.headers(), &mut body, &mut stream.info).await;
            *response.body_mut() = body;
            if !fits {
                let details = "response_payload_too_large";
                stream.info.response_code_details = details.into();
                let reply = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, details);
                *response = LocalReply { body: "Internal Server Error".into(), ..reply }.into_response(stream.is_grpc);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    #[test]
    fn fields_are_found_and_converted() {
        let yaml = "{request_rules: {rules: [
            {selectors: [{key: a}, {key: b}], on_present: {metadata_namespace: lb, key: number, type: NUMBER}},
            {selectors: [{key: c}], on_present: {metadata_namespace: lb, key: text, type: STRING},
             on_missing: {metadata_namespace: lb, key: text, value: none}},
            {selectors: [{key: d}], on_present: {metadata_namespace: lb, key: flag}}]}}";
        let report = Report::new();
        let proto: Proto = load(&Source::new("test.yaml", yaml), &report).unwrap();
        let rules = Rules::from_proto(&proto, Field::root(&report), &Registry::new(1).scope("json")).unwrap();
        let read = |body: &str| {
            let mut info = StreamInfo::sample();
            rules.request.as_ref().unwrap().read(body.as_bytes(), &mut info);
            let mut found: Vec<_> = info.dynamic_metadata.remove("lb").unwrap_or_default().fields.into_iter().collect();
            found.sort_by(|one, other| one.0.cmp(&other.0));
            found.into_iter().map(|(key, value)| (key, value.kind.unwrap())).collect::<Vec<_>>()
        };
        let text = |text: &str| ("text".to_owned(), Kind::StringValue(text.to_owned()));
        let flag = ("flag".to_owned(), Kind::BoolValue(true));
        let number = ("number".to_owned(), Kind::NumberValue(2.5));
        assert_eq!(read(r#"{"a": {"b": "2.5"}, "c": 7, "d": true}"#), [flag, number, text("7")]);
        assert_eq!(read(r#"{"a": 1}"#), [text("none")]);
        assert_eq!(read("no json"), []);
        assert_eq!(read(""), [text("none")]);
    }
}
