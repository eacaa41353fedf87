//! `portreeve.filters.http.registration`: the registration API, on whatever listener has this filter in its chain.
//!
//! Requests for the API, for server reflection and for grpc.health.v1 are answered by the service on the main thread; all
//! others go on to the next filter, and so do reflection and health if a header names a registered worker: they mean it. The filter says who the caller is: what is refused here never leaves the worker. Bodies
//! are handed over frame by frame and are limited in size, calls are limited in time.

mod caller;

use std::{mem, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header, uri::Authority};
use tokio::{task::spawn_local, time::timeout};

pub use caller::{Caller, Callers, Peer, Unauthenticated};

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream},
        service::{InternalService, hand_over},
    },
    http::{Refused, Request, body::Body, local_reply::LocalReply},
    proto::{self, registration as wire},
    route::RouteRef,
    stats::Counter,
};

/// Its row in the table of filters.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "portreeve.filters.http.registration",
    type_name: "portreeve.registration.v1.RegistrationFilter",
    from_proto: RegistrationFilter::from_any,
};

/// Most bytes of a request, whatever it holds: a Renew of a thousand workers is well below.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// The longest call: a Deregister with the longest drain time, and some.
const MAX_CALL: Duration = Duration::from_mins(61);

/// The filter's settings.
#[derive(Debug)]
pub struct RegistrationFilter {
    settings: Arc<Settings>,
    service: Option<InternalService>,
    refused: Counter,
}

/// What the API has to know of the filter through which a call came in.
#[derive(Debug)]
pub struct Settings {
    /// Who may call.
    pub callers: Callers,
    /// The lease of a worker that does not ask for a time.
    pub default_lease_time: Duration,
    /// The longest lease.
    pub max_lease_time: Duration,
    /// Where clients reach registered workers: scheme and authority. Empty: where the call came in.
    pub public_urls: Vec<String>,
}

/// What the filter knows of one call; stands in the extensions of the request that the service gets.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// The settings of the filter.
    pub settings: Arc<Settings>,
    /// Scheme and authority of the call.
    pub origin: Option<String>,
}

impl Session {
    /// The lease time that is granted to whoever asks for this one.
    pub fn lease_time(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(self.settings.default_lease_time).min(self.settings.max_lease_time)
    }

    /// Where clients reach registered workers: scheme and authority.
    pub fn public_urls(&self) -> &[String] {
        if self.settings.public_urls.is_empty() { self.origin.as_slice() } else { &self.settings.public_urls }
    }
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    /// The registry.
    Registry,
    /// Server reflection, which workers may have too.
    Reflection,
    /// grpc.health.v1, which workers may have too.
    Health,
    /// Not ours.
    Other,
}

impl RegistrationFilter {
    fn from_any(any: &proto::Any, field: Field<'_>, context: &FactoryContext<'_>) -> Option<Arc<dyn HttpFilterConfig>> {
        let proto = field.unpack::<wire::RegistrationFilter>(any)?;
        let settings = Settings::from_proto(&proto, field)?;
        let refused = context.stats.scope("registration").counter("refused");
        let service = context.services.registration.clone();
        Some(Arc::new(RegistrationFilter { settings: Arc::new(settings), service, refused }))
    }
}

impl Settings {
    fn from_proto(proto: &wire::RegistrationFilter, field: Field<'_>) -> Option<Settings> {
        let wire::RegistrationFilter { callers, default_lease_time, max_lease_time, public_urls } = proto;
        let callers = Callers::from_proto(callers, field.key("callers"));
        let max_lease_time = field.duration("max_lease_time", max_lease_time).unwrap_or(Duration::from_hours(1));
        if !(1..=7 * 86_400).contains(&max_lease_time.as_secs()) {
            field.key("max_lease_time").error("must be 1s to 604800s");
        }
        let default_lease_time = field
            .duration("default_lease_time", default_lease_time)
            .unwrap_or_else(|| max_lease_time.min(Duration::from_secs(30)));
        if default_lease_time < Duration::from_secs(1) || default_lease_time > max_lease_time {
            field.key("default_lease_time").error("must be 1s to max_lease_time");
        }
        let urls = field.key("public_urls");
        for (index, url) in public_urls.iter().enumerate() {
            if !is_origin(url) {
                urls.index(index).error("must be a scheme and an authority, such as https://ingress.example.com:8000");
            }
        }
        Some(Settings {
            callers: callers?,
            default_lease_time,
            max_lease_time,
            public_urls: public_urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
        })
    }
}

fn is_origin(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| rest.strip_suffix('/').unwrap_or(rest).parse::<Authority>().is_ok())
}

impl HttpFilterConfig for RegistrationFilter {
    fn applies_to(&self, request: &Request) -> bool {
        Asked::of(request.uri().path()) != Asked::Other
    }

    fn new_stream(self: Arc<Self>, _place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Call {
            settings: Arc::clone(&self.settings),
            service: self.service.clone(),
            refused: self.refused.clone(),
        })
    }
}

/// One request for the API.
struct Call {
    settings: Arc<Settings>,
    service: Option<InternalService>,
    refused: Counter,
}

impl HttpFilter for Call {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        Box::pin(self.answer(request, stream))
    }
}

impl Call {
    async fn answer(&self, request: &mut Request, stream: &Stream) -> Decoded {
        let path = request.uri().path();
        let asked = Asked::of(path);
        let names_worker = stream.route.as_ref().is_some_and(RouteRef::is_registered_by_header);
        if names_worker && asked != Asked::Registry {
            return Decoded::Continue;
        }
        let session = match asked {
            Asked::Registry | Asked::Reflection => match self.session(request, stream) {
                Ok(session) => Some(session),
                Err(reason) => {
                    self.refused.inc();
                    let remote = &stream.info.connection.remote;
                    tracing::warn!(name: "peer_refused", target: "portreeve::registration", %remote, call = path, %reason, "refused");
                    return Decoded::Reply(unauthenticated(reason));
                }
            },
            Asked::Health | Asked::Other => None,
        };
        let Some(service) = &self.service else { return Decoded::Reply(stopping()) };
        let (body, feed) = hand_over(mem::take(request.body_mut()), MAX_REQUEST_BYTES);
        spawn_local(feed);
        // The original stays behind for the access log. The token goes no further.
        let mut call = http::Request::new(body);
        *call.method_mut() = request.method().clone();
        *call.uri_mut() = request.uri().clone();
        *call.version_mut() = request.version();
        *call.headers_mut() = request.headers().clone();
        call.headers_mut().remove(header::AUTHORIZATION);
        session.map(|session| call.extensions_mut().insert(session));
        match timeout(MAX_CALL, service.call(call)).await {
            Ok(Some(response)) if Refused::is_in(&response) => Decoded::Reply(LocalReply::handed_over()),
            Ok(Some(response)) => Decoded::Respond(response.map(Body::boxed)),
            Ok(None) | Err(_) => Decoded::Reply(stopping()),
        }
    }

    fn session(&self, request: &Request, stream: &Stream) -> Result<Session, Unauthenticated> {
        let peer = stream.info.connection.peer_credentials.map(Peer::from);
        let caller = self.settings.callers.authenticate(request.headers(), peer)?;
        Ok(Session {
            caller: Arc::clone(caller),
            settings: Arc::clone(&self.settings),
            origin: origin(request, stream),
        })
    }
}

/// Where the client believes the ingress to be.
fn origin(request: &Request, stream: &Stream) -> Option<String> {
    let authority = request.uri().authority().map(Authority::as_str);
    let authority = authority.or_else(|| request.headers().get(header::HOST)?.to_str().ok())?;
    Some(format!("{}://{authority}", stream.info.scheme))
}

fn unauthenticated(reason: Unauthenticated) -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::UNAUTHORIZED, "registration_unauthenticated");
    reply.body = reason.to_string().into();
    reply.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}

fn stopping() -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "registration_unavailable");
    reply.body = "the registration service is stopping".into();
    reply
}

impl Asked {
    fn of(path: &str) -> Asked {
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        match service {
            Some("portreeve.registration.v1.WorkerRegistry") => Asked::Registry,
            Some("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection") => {
                Asked::Reflection
            }
            Some("grpc.health.v1.Health") => Asked::Health,
            _ => Asked::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    #[test]
    fn paths_of_the_api_are_told_from_others() {
        for (path, asked) in [
            ("/portreeve.registration.v1.WorkerRegistry/Register", Asked::Registry),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Asked::Reflection),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Asked::Reflection),
            ("/grpc.health.v1.Health/Check", Asked::Health),
            ("/grpc.health.v1.Health", Asked::Other),
            ("/grpc.health.v1.HealthX/Check", Asked::Other),
            ("/x/grpc.health.v1.Health/Check", Asked::Other),
            ("/", Asked::Other),
            ("*", Asked::Other),
        ] {
            assert_eq!(Asked::of(path), asked, "{path}");
        }
    }

    fn problems(proto: &wire::RegistrationFilter) -> Vec<String> {
        let report = Report::new();
        let settings = Settings::from_proto(proto, Field::root(&report));
        assert!(settings.is_some() || report.has_errors());
        report.into_problems().iter().map(ToString::to_string).collect()
    }

    fn caller(name: &str, token: &str) -> wire::Caller {
        let source = proto::core::DataSource {
            specifier: Some(proto::core::data_source::Specifier::InlineString(token.to_owned())),
            ..proto::core::DataSource::default()
        };
        wire::Caller {
            name: name.to_owned(),
            credential: Some(wire::caller::Credential::BearerToken(source)),
            ..wire::Caller::default()
        }
    }

    #[test]
    fn wrong_settings_are_told_by_field() {
        let mut filter = wire::RegistrationFilter {
            callers: vec![caller("a", "0123456789abcdef\n"), caller("a", "0123456789abcdef"), caller("b", "short")],
            default_lease_time: Some(proto::Duration { seconds: 7200, nanos: 0 }),
            public_urls: vec!["https://ingress.example.com:8000".to_owned(), "ingress.example.com".to_owned()],
            ..wire::RegistrationFilter::default()
        };
        filter.callers.push(wire::Caller { name: "c".to_owned(), ..wire::Caller::default() });
        assert_eq!(
            problems(&filter),
            [
                "callers[1].name: there is a caller \"a\" already",
                "callers[1].bearer_token: is the token of caller \"a\" too",
                "callers[2].bearer_token: must be at least 16 visible ASCII characters",
                "callers[3]: needs bearer_token or unix_peer",
                "default_lease_time: must be 1s to max_lease_time",
                "public_urls[1]: must be a scheme and an authority, such as https://ingress.example.com:8000",
            ]
        );
    }

    #[test]
    fn nobody_may_call_by_default() {
        let settings = Settings::from_proto(&wire::RegistrationFilter::default(), Field::root(&Report::new())).unwrap();
        let refused = settings.callers.authenticate(&http::HeaderMap::new(), Some(Peer { uid: 0, gid: 0 }));
        assert_eq!(refused.unwrap_err(), Unauthenticated::NoCredentials);
        assert_eq!(settings.default_lease_time, Duration::from_secs(30));
    }
}
