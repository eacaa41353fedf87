//! `envoy.filters.http.api_key_auth`: lets in who shows a key of a list, and tells the upstream whose key it is.
//!
//! What a route says of keys and of sources goes over the filter's, each by itself; its forwarding does also where it has none. A route may
//! name the clients that it is for.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    config::Field,
    filter::{
        LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, cookies, local_reply::LocalReply, query},
    proto::api_key_auth::{
        ApiKeyAuth as Proto, ApiKeyAuthPerRoute, Credential, Forwarding as ForwardingProto, KeySource,
    },
    route::FilterSettingsFactory,
    stats,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.api_key_auth",
    type_name: "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    from_proto: |any, field, cx| {
        let Proto { credentials, key_sources, forwarding } = field.unpack(any)?;
        let settings = Settings::new(&credentials, &key_sources, forwarding.as_ref(), field)?;
        Some(Arc::new(ApiKeyAuth { settings, stats: ApiKeyAuthStats::new(&cx.filter_stats("api_key_auth")) }))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
    from_proto: |any, field, _| {
        let ApiKeyAuthPerRoute { credentials, key_sources, allowed_clients, forwarding } = field.unpack(any)?;
        let settings = Settings::new(&credentials, &key_sources, forwarding.as_ref(), field)?;
        Some(Arc::new(RouteSettings { settings, allowed_clients }))
    },
};

#[derive(Debug)]
struct ApiKeyAuth {
    settings: Settings,
    stats: ApiKeyAuthStats,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.api_key_auth.`
    struct ApiKeyAuthStats {
        /// Requests let in.
        allowed: Counter,
        /// Requests without a known key.
        unauthorized: Counter,
        /// Requests of clients that the route is not for.
        forbidden: Counter,
    }
}

#[derive(Debug)]
struct RouteSettings {
    settings: Settings,
    /// Empty for all.
    allowed_clients: Vec<String>,
}

#[derive(Debug)]
struct Settings {
    credentials: Credentials,
    sources: Vec<Source>,
    forwarding: Option<Forwarding>,
}

/// The clients by their keys.
struct Credentials(HashMap<String, String>);

/// Keys do not belong into logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

#[derive(Debug)]
enum Source {
    Header(HeaderName),
    Query(String),
    Cookie(String),
}

#[derive(Debug)]
struct Forwarding {
    /// Where the name of the client is told.
    header: Option<HeaderName>,
    hide_credentials: bool,
}

impl Settings {
    /// The messages are Envoy's.
    fn new(
        credentials: &[Credential],
        sources: &[KeySource],
        forwarding: Option<&ForwardingProto>,
        field: Field<'_>,
    ) -> Option<Settings> {
        let mut clients = HashMap::new();
        for Credential { key, client } in credentials {
            if clients.insert(key.clone(), client.clone()).is_some() {
                field.key("credentials").error("Duplicated API key.");
                return None;
            }
        }
        let list = field.key("key_sources");
        let sources = sources.iter().enumerate().map(|(index, source)| Source::from_proto(source, list.index(index)));
        let sources: Vec<_> = sources.collect::<Option<_>>()?;
        let forwarding = match forwarding {
            Some(ForwardingProto { header, hide_credentials }) => Some(Forwarding {
                header: if header.is_empty() { None } else { Some(header_name(header, field.key("forwarding"))?) },
                hide_credentials: *hide_credentials,
            }),
            None => None,
        };
        let hides = forwarding.as_ref().is_some_and(|forwarding| forwarding.hide_credentials);
        if hides && sources.iter().any(|source| !matches!(source, Source::Header(_))) {
            let field = field.key("forwarding");
            field
                .key("hide_credentials")
                .error("hiding keys of queries and cookies is not implemented by Portreeve yet");
            return None;
        }
        Some(Settings { credentials: Credentials(clients), sources, forwarding })
    }
}

fn header_name(name: &str, field: Field<'_>) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        field.key("header").error("not a valid header name");
    }
    parsed
}

impl Source {
    fn from_proto(proto: &KeySource, field: Field<'_>) -> Option<Source> {
        let KeySource { header, query, cookie } = proto;
        match (header.is_empty(), query.is_empty(), cookie.is_empty()) {
            (false, ..) => header_name(header, field).map(Source::Header),
            (_, false, _) => Some(Source::Query(query.clone())),
            (.., false) => Some(Source::Cookie(cookie.clone())),
            _ => {
                field.error("One of 'header'/'query'/'cookie' must be set.");
                None
            }
        }
    }

    fn key<'r>(&self, request: &'r Request) -> Option<Cow<'r, str>> {
        let key = match self {
            Source::Header(name) => {
                let value = request.headers().get(name)?.to_str().ok()?;
                Cow::Borrowed(value.strip_prefix("Bearer ").unwrap_or(value))
            }
            Source::Query(name) => query::decoded(request.uri().query(), name)?,
            Source::Cookie(name) => String::from_utf8_lossy(cookies::value(request.headers(), name)?),
        };
        (!key.is_empty()).then_some(key)
    }
}

impl HttpFilterConfig for ApiKeyAuth {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Gate { route: place.settings(), auth: self })
    }
}

/// The filter on one stream.
struct Gate {
    auth: Arc<ApiKeyAuth>,
    route: Option<Arc<RouteSettings>>,
}

impl HttpFilter for Gate {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, _stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        ready(match self.admit(request) {
            Ok(()) => {
                self.auth.stats.allowed.inc();
                Decoded::Continue
            }
            Err((status, body, details)) => {
                let stats = &self.auth.stats;
                let count = if status == StatusCode::FORBIDDEN { &stats.forbidden } else { &stats.unauthorized };
                count.inc();
                Decoded::Reply(LocalReply { body: body.into(), ..LocalReply::new(status, details) })
            }
        })
    }
}

/// Status, text and details of a refusal, which are Envoy's to the letter.
type Refusal = (StatusCode, &'static str, &'static str);

impl Gate {
    fn admit(&self, request: &mut Request) -> Result<(), Refusal> {
        let unauthorized = |details| (StatusCode::UNAUTHORIZED, "Client authentication failed.", details);
        let own = &self.auth.settings;
        let route = self.route.as_deref().map(|route| &route.settings);
        let sources = route.map(|route| &route.sources).filter(|sources| !sources.is_empty()).unwrap_or(&own.sources);
        if sources.is_empty() {
            return Err(unauthorized("missing_key_sources"));
        }
        let credentials = route.map(|route| &route.credentials).filter(|credentials| !credentials.0.is_empty());
        let credentials = credentials.unwrap_or(&own.credentials);
        if credentials.0.is_empty() {
            return Err(unauthorized("missing_credentials"));
        }
        let key = sources.iter().find_map(|source| source.key(request)).ok_or(unauthorized("missing_api_key"))?;
        let client = credentials.0.get(&*key).ok_or(unauthorized("unknown_api_key"))?;
        let allowed = self.route.as_ref().map(|route| &route.allowed_clients).filter(|clients| !clients.is_empty());
        if allowed.is_some_and(|clients| !clients.contains(client)) {
            return Err((StatusCode::FORBIDDEN, "Client is forbidden.", "client_not_allowed"));
        }
        let Some(forwarding) = &route.unwrap_or(own).forwarding else {
            return Ok(());
        };
        if let Some(header) = &forwarding.header
            && let Ok(client) = HeaderValue::from_str(client)
        {
            request.headers_mut().insert(header, client);
        }
        if forwarding.hide_credentials {
            for source in sources {
                if let Source::Header(name) = source {
                    request.headers_mut().remove(name);
                }
            }
        }
        Ok(())
    }
}
