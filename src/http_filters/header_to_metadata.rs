//! `envoy.filters.http.header_to_metadata`: writes headers and cookies into the dynamic metadata, where routes, access logs and balancers
//! look.
//!
//! A rule says what to write where its header is there, and where it is not. The most specific rules count as a whole.

use std::sync::Arc;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

use crate::{
    config::Field,
    filter::{
        LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, Response, cookies},
    matcher::RegexRewrite,
    proto::{
        Value,
        header_to_metadata::{
            Config,
            config::{KeyValuePair, Rule as RuleProto, ValueEncode, ValueType},
        },
        value::Kind,
    },
    route::FilterSettingsFactory,
    stream_info::StreamInfo,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: NAME,
    type_name: "envoy.extensions.filters.http.header_to_metadata.v3.Config",
    from_proto: |any, field, _| Some(Arc::new(Filter(Arc::new(Rules::from_proto(&field.unpack(any)?, field)?)))),
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, _| {
        let rules = Rules::from_proto(&field.unpack(any)?, field)?;
        if rules.request.is_empty() && rules.response.is_empty() {
            let reason = "header_to_metadata_filter: Per filter configs must at least specify either request or \
                          response rules";
            field.error(reason);
            return None;
        }
        Some(Arc::new(rules))
    },
};

/// Also the namespace of what names none.
const NAME: &str = "envoy.filters.http.header_to_metadata";

/// Longer values are not written, in bytes.
const MAX_VALUE: usize = 8 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug)]
struct Filter(Arc<Rules>);

/// A checked `Config`.
#[derive(Debug)]
struct Rules {
    request: Vec<Rule>,
    response: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    source: Source,
    present: Option<Target>,
    missing: Option<Target>,
}

#[derive(Debug)]
enum Source {
    Header { name: HeaderName, removed: bool },
    Cookie(String),
}

/// Where something is written, and as what.
#[derive(Debug)]
struct Target {
    namespace: String,
    key: String,
    /// In place of the header's.
    value: Option<String>,
    rewrite: Option<RegexRewrite>,
    kind: ValueType,
    encoding: ValueEncode,
}

impl Rules {
    fn from_proto(proto: &Config, field: Field<'_>) -> Option<Rules> {
        let Config { request_rules, response_rules, stat_prefix } = proto;
        field.ignored("stat_prefix", stat_prefix, "what the filter does is not counted");
        let rules = |key, rules: &[RuleProto]| {
            let list = field.key(key);
            rules.iter().enumerate().map(|(index, rule)| Rule::from_proto(rule, list.index(index))).collect()
        };
        let request: Option<_> = rules("request_rules", request_rules);
        let response: Option<_> = rules("response_rules", response_rules);
        Some(Rules { request: request?, response: response? })
    }
}

impl Rule {
    /// The messages are Envoy's.
    fn from_proto(proto: &RuleProto, field: Field<'_>) -> Option<Rule> {
        let RuleProto { header, cookie, on_header_present, on_header_missing, remove } = proto;
        let mistake = match (header.is_empty(), cookie.is_empty()) {
            (false, false) => Some("Cannot specify both header and cookie".to_owned()),
            (true, true) => Some("One of Cookie or Header option needs to be specified".to_owned()),
            (true, false) if *remove => Some("Cannot specify remove for cookie".to_owned()),
            _ if on_header_present.is_none() && on_header_missing.is_none() => Some(format!(
                "header to metadata filter: rule for {header}{cookie} has neither `on_header_present` nor \
                 `on_header_missing` set"
            )),
            _ if on_header_missing.as_ref().is_some_and(|pair| pair.value.is_empty()) => {
                Some("Cannot specify on_header_missing rule with an empty value".to_owned())
            }
            _ => None,
        };
        if let Some(mistake) = mistake {
            field.error(mistake);
            return None;
        }
        let source = if header.is_empty() {
            Source::Cookie(cookie.clone())
        } else {
            let Ok(name) = HeaderName::from_bytes(header.as_bytes()) else {
                field.key("header").error("not a valid header name");
                return None;
            };
            Source::Header { name, removed: *remove }
        };
        let target = |key, pair: &Option<KeyValuePair>| match pair {
            Some(pair) => Target::from_proto(pair, field.key(key)).map(Some),
            None => Some(None),
        };
        Some(Rule {
            source,
            present: target("on_header_present", on_header_present)?,
            missing: target("on_header_missing", on_header_missing)?,
        })
    }

    fn apply(&self, headers: &mut HeaderMap, info: &mut StreamInfo) {
        match (self.source.take(headers), &self.present, &self.missing) {
            (Some(value), Some(target), _) => target.write(value, info),
            (None, _, Some(target)) => target.write(String::new(), info),
            _ => {}
        }
    }
}

impl Source {
    /// Several lines of a header are joined by commas.
    fn take(&self, headers: &mut HeaderMap) -> Option<String> {
        match self {
            Source::Header { name, removed } => {
                let values = headers.get_all(name).iter().map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
                let value = values.reduce(|all, more| (all + ",") + more)?.into_owned();
                if *removed {
                    headers.remove(name);
                }
                Some(value)
            }
            Source::Cookie(name) => {
                let value = cookies::value(headers, name)?;
                (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned())
            }
        }
    }
}

impl Target {
    fn from_proto(proto: &KeyValuePair, field: Field<'_>) -> Option<Target> {
        let KeyValuePair { metadata_namespace, key, value, regex_value_rewrite, r#type, encode } = proto;
        if !value.is_empty() && regex_value_rewrite.is_some() {
            field.error("Cannot specify both value and regex_value_rewrite");
            return None;
        }
        let rewrite = match regex_value_rewrite {
            Some(rewrite) => Some(RegexRewrite::from_proto(rewrite, field.key("regex_value_rewrite"))?),
            None => None,
        };
        Some(Target {
            namespace: if metadata_namespace.is_empty() { NAME.to_owned() } else { metadata_namespace.clone() },
            key: key.clone(),
            value: (!value.is_empty()).then(|| value.clone()),
            rewrite,
            kind: ValueType::try_from(*r#type).unwrap_or(ValueType::String),
            encoding: ValueEncode::try_from(*encode).unwrap_or(ValueEncode::None),
        })
    }

    /// An empty value, one that is too long and one that is not what it should be are not written.
    fn write(&self, value: String, info: &mut StreamInfo) {
        let value = match (&self.value, &self.rewrite) {
            (Some(constant), _) => constant.clone(),
            (None, Some(rewrite)) => rewrite.rewrite(&value).into_owned(),
            (None, None) => value,
        };
        if value.is_empty() || value.len() >= MAX_VALUE {
            return;
        }
        if let Some(value) = self.convert(value) {
            let metadata = info.dynamic_metadata.entry(self.namespace.clone()).or_default();
            metadata.fields.insert(self.key.clone(), value);
        }
    }

    fn convert(&self, value: String) -> Option<Value> {
        let value = match self.encoding {
            ValueEncode::None => value.into_bytes(),
            ValueEncode::Base64 => BASE64.decode(value).ok().filter(|decoded| !decoded.is_empty())?,
        };
        let kind = match self.kind {
            ValueType::String => Kind::StringValue(String::from_utf8_lossy(&value).into_owned()),
            ValueType::Number => Kind::NumberValue(std::str::from_utf8(&value).ok()?.trim().parse().ok()?),
            ValueType::ProtobufValue => return Value::decode(&*value).ok(),
        };
        Some(Value { kind: Some(kind) })
    }
}

impl HttpFilterConfig for Filter {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Writer(place.settings().unwrap_or_else(|| Arc::clone(&self.0))))
    }
}

/// The filter on one stream.
struct Writer(Arc<Rules>);

impl HttpFilter for Writer {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        for rule in &self.0.request {
            rule.apply(request.headers_mut(), &mut stream.info);
        }
        ready(Decoded::Continue)
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        for rule in &self.0.response {
            rule.apply(response.headers_mut(), &mut stream.info);
        }
        ready(())
    }
}
