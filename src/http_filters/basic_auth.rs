//! `envoy.filters.http.basic_auth`: lets in who shows a name and a password of a list in htpasswd's format with SHA-1 hashes.
//!
//! Routes may have a list of their own. What is refused is told why, and by which realm: the address that was asked for.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;

use crate::{
    config::{Field, data_source},
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{
        Request, authority,
        headers::{X_ENVOY_ORIGINAL_PATH, X_FORWARDED_PROTO},
        local_reply::LocalReply,
    },
    proto::{
        Struct, Value,
        basic_auth::{BasicAuth as Proto, BasicAuthPerRoute},
        core::DataSource,
        value::Kind,
    },
    route::FilterSettingsFactory,
    stats,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: NAME,
    type_name: "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    from_proto: |any, field, cx| {
        let auth = BasicAuth::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(auth))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: "envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute",
    from_proto: |any, field, _| {
        let BasicAuthPerRoute { users } = field.unpack(any)?;
        Some(Arc::new(Users::from_proto(users.as_ref(), field)?))
    },
};

const NAME: &str = "envoy.filters.http.basic_auth";

/// The longest path that a refusal quotes, in bytes.
const MAX_QUOTED_PATH: usize = 256;

/// Clients may leave out the padding.
const CREDENTIALS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A checked `BasicAuth`.
#[derive(Debug)]
struct BasicAuth {
    users: Users,
    /// Where the name of who was let in is told to the upstream.
    forward_username: Option<HeaderName>,
    /// Where credentials stand.
    header: HeaderName,
    allow_missing: bool,
    emit_metadata: bool,
    stats: BasicAuthStats,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.basic_auth.`
    struct BasicAuthStats {
        /// Requests let in.
        allowed: Counter,
        /// Requests refused.
        denied: Counter,
    }
}

/// The hashes of passwords by names.
struct Users(HashMap<String, [u8; digest::SHA1_OUTPUT_LEN]>);

/// Neither names nor hashes belong into logs.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} users", self.0.len())
    }
}

impl BasicAuth {
    fn from_proto(proto: &Proto, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<BasicAuth> {
        let Proto { users, forward_username_header, authentication_header, allow_missing, emit_dynamic_metadata } =
            proto;
        let name = |key, name: &str| {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            if parsed.is_none() && !name.is_empty() {
                field.key(key).error("not a valid header name");
            }
            parsed
        };
        Some(BasicAuth {
            users: Users::from_proto(users.as_ref(), field)?,
            forward_username: name("forward_username_header", forward_username_header),
            header: name("authentication_header", authentication_header).unwrap_or(header::AUTHORIZATION),
            allow_missing: *allow_missing,
            emit_metadata: *emit_dynamic_metadata,
            stats: BasicAuthStats::new(&cx.filter_stats("basic_auth")),
        })
    }

    /// The name of who asks, or why nobody is let in; `Ok(None)` if nobody has to say who it is.
    fn caller(&self, request: &Request, users: &Users) -> Result<Option<String>, Refusal> {
        let Some(value) = request.headers().get(&self.header) else {
            return if self.allow_missing { Ok(None) } else { Err(Refusal::Missing) };
        };
        let token = value.as_bytes().strip_prefix(b"Basic ").ok_or(Refusal::Scheme)?;
        let credentials = CREDENTIALS.decode(token).unwrap_or_default();
        let colon = credentials.iter().position(|byte| *byte == b':').ok_or(Refusal::Format)?;
        let name = std::str::from_utf8(&credentials[..colon]).map_err(|_| Refusal::Unknown)?;
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &credentials[colon + 1..]);
        let known = users.0.get(name).is_some_and(|known| bool::from(known[..].ct_eq(hash.as_ref())));
        if known { Ok(Some(name.to_owned())) } else { Err(Refusal::Unknown) }
    }
}

impl Users {
    fn from_proto(users: Option<&DataSource>, field: Field<'_>) -> Option<Users> {
        let Some(source) = users else { return Some(Users(HashMap::new())) };
        let field = field.key("users");
        let text = String::from_utf8(data_source::read(source, field)?).ok();
        match text
            .ok_or("basic auth: invalid htpasswd format, username:password is expected")
            .and_then(|text| Users::parse(&text))
        {
            Ok(users) => Some(users),
            Err(reason) => {
                field.error(reason);
                None
            }
        }
    }

    /// The messages are Envoy's.
    fn parse(text: &str) -> Result<Users, &'static str> {
        let mut users = HashMap::new();
        for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, hash) =
                line.split_once(':').ok_or("basic auth: invalid htpasswd format, username:password is expected")?;
            if name.is_empty() || hash.is_empty() {
                return Err("basic auth: empty user name or password");
            }
            let hash = hash.strip_prefix("{SHA}").ok_or("basic auth: unsupported htpasswd format: please use {SHA}")?;
            let hash = STANDARD.decode(hash).ok().and_then(|hash| hash.try_into().ok());
            let hash = hash.ok_or("basic auth: invalid htpasswd format, invalid SHA hash length")?;
            if users.insert(name.to_owned(), hash).is_some() {
                return Err("basic auth: duplicate users");
            }
        }
        Ok(Users(users))
    }
}

impl HttpFilterConfig for BasicAuth {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Gate { users: place.settings(), auth: self })
    }
}

/// The filter on one stream.
struct Gate {
    auth: Arc<BasicAuth>,
    /// The route's own.
    users: Option<Arc<Users>>,
}

impl HttpFilter for Gate {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        ready(self.decide(request, stream))
    }
}

impl Gate {
    fn decide(&self, request: &mut Request, stream: &mut Stream) -> Decoded {
        let name = match self.auth.caller(request, self.users.as_deref().unwrap_or(&self.auth.users)) {
            Ok(name) => name,
            Err(refusal) => {
                self.auth.stats.denied.inc();
                return Decoded::Reply(refusal.into_reply(request));
            }
        };
        self.auth.stats.allowed.inc();
        let Some(name) = name else { return Decoded::Continue };
        if let Some(header) = &self.auth.forward_username
            && let Ok(value) = HeaderValue::from_str(&name)
        {
            request.headers_mut().insert(header, value);
        }
        if self.auth.emit_metadata {
            let metadata: &mut Struct = stream.info.dynamic_metadata.entry(NAME.to_owned()).or_default();
            metadata.fields.insert("username".to_owned(), Value { kind: Some(Kind::StringValue(name)) });
        }
        Decoded::Continue
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Missing,
    Scheme,
    Format,
    Unknown,
}

impl Refusal {
    /// Texts and details are Envoy's.
    fn into_reply(self, request: &Request) -> LocalReply {
        let (details, body) = match self {
            Refusal::Missing => {
                ("no_credential_for_basic_auth", "User authentication failed. Missing username and password.")
            }
            Refusal::Scheme => {
                ("invalid_scheme_for_basic_auth", "User authentication failed. Expected 'Basic' authentication scheme.")
            }
            Refusal::Format => {
                ("invalid_format_for_basic_auth", "User authentication failed. Invalid basic credential format.")
            }
            Refusal::Unknown => (
                "invalid_credential_for_basic_auth",
                "User authentication failed. Invalid username/password combination.",
            ),
        };
        let mut reply = LocalReply { body: body.into(), ..LocalReply::new(StatusCode::UNAUTHORIZED, details) };
        if let Ok(value) = HeaderValue::from_str(&format!("Basic realm=\"{}\"", realm(request))) {
            reply.headers.insert(header::WWW_AUTHENTICATE, value);
        }
        reply
    }
}

/// The address that was asked for.
fn realm(request: &Request) -> String {
    let text = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = text(X_ENVOY_ORIGINAL_PATH).or(request.uri().path_and_query().map(|path| path.as_str()));
    let path = path.unwrap_or_default();
    let path = path.get(..MAX_QUOTED_PATH).unwrap_or(path);
    format!("{}://{}{path}", text(X_FORWARDED_PROTO).unwrap_or_default(), authority(request).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_envoy_reads_them() {
        let hash = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
        let users = |text: &str| Users::parse(text).map(|users| users.0.len());
        assert_eq!(users(&format!("# comment\n\nuser:{hash}\nadmin:{hash}\n")), Ok(2));
        assert_eq!(users("user"), Err("basic auth: invalid htpasswd format, username:password is expected"));
        assert_eq!(users(&format!(":{hash}")), Err("basic auth: empty user name or password"));
        assert_eq!(users("user:$2y$05$x"), Err("basic auth: unsupported htpasswd format: please use {SHA}"));
        assert_eq!(users("user:{SHA}abcd"), Err("basic auth: invalid htpasswd format, invalid SHA hash length"));
        assert_eq!(users(&format!("a:{hash}\na:{hash}")), Err("basic auth: duplicate users"));
    }
}
