//! What a request says: its target, its headers, and what routes make of them.

use std::{collections::HashSet, net::IpAddr, rc::Rc, str, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use portreeve::{
    config::{self, Field, Report, Source},
    http::{
        grpc,
        headers::{
            CertDetails, ClientCertRules, Downstream, Forwarding, HeaderRules, IpDetection, X_ENVOY_INTERNAL,
            X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, admit_request, finish_response, remove_hop_by_hop,
        },
        path::{EscapedSlashes, Normalized, PathRules, normalize},
    },
    matcher::{CidrRange, HeaderMatcher, UriTemplate},
    proto::route,
    route::{Action, Lookup, Originals, RouteConfiguration, Surroundings},
    runtime::Runtime,
    stats::Registry,
    stream_info::StreamInfo,
};

/// Paths under all rules: a path that is normal stays as it is.
pub fn path(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Reject, EscapedSlashes::UnescapeAndForward] {
        let rules = PathRules { normalize_path: true, merge_slashes: true, escaped_slashes };
        if let Normalized::Forward(path) = normalize(text, rules)
            && path.starts_with('/')
        {
            let plain = path.split('?').next().unwrap();
            assert!(!plain.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
            assert!(!plain.contains("//"), "{path}");
            assert_eq!(normalize(&path, rules), Normalized::Forward(path.as_ref().into()));
        }
    }
}

/// A template in the first line, and a path.
pub fn uri_template(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, "/"));
    if let Ok(template) = UriTemplate::parse(template) {
        assert_eq!(template.matches(path.as_bytes()), template.captures(path.as_bytes()).is_some());
    }
}

/// `grpc-timeout`: what is understood is written and read again as the same time, or as a longer one where digits run out.
/// `grpc-message`: whatever it says can be read again.
pub fn grpc(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let headers = |name, value| HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
    if let Some(timeout) = grpc::timeout(&headers("grpc-timeout", value.clone())) {
        let again = grpc::timeout(&headers("grpc-timeout", grpc::timeout_value(timeout)));
        assert!(again.is_some_and(|again| again >= timeout), "{timeout:?} became {again:?}");
    }
    let _ = grpc::status(&headers("grpc-status", value));
    assert_eq!(percent_decoded(grpc::message(input).as_bytes()), input);
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        decoded.push(match byte {
            b'%' => {
                let (digits, tail) = rest.split_at(2);
                rest = tail;
                u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            _ => *byte,
        });
    }
    decoded
}

/// A header matcher in the first line, the values of its header in the others. What is there passes a matcher or its inversion.
pub fn header_matcher(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(Ok(text)) = lines.next().map(str::from_utf8) else { return };
    let values: Vec<&[u8]> = lines.collect();
    let report = Report::new();
    let proto: Option<route::HeaderMatcher> = config::load(&Source::new("matcher.yaml", text), &report);
    let Some(proto) = proto else { return };
    let inverted = route::HeaderMatcher { invert_match: !proto.invert_match, ..proto.clone() };
    let field = Field::root(&report);
    if let Some(matcher) = HeaderMatcher::from_proto(&proto, field) {
        let inverted = HeaderMatcher::from_proto(&inverted, field).expect("the same but for its inversion");
        let [one, other] = [matcher, inverted].map(|matcher| matcher.matches_values(values.iter().copied()));
        assert!(values.is_empty() || one != other);
    } else {
        assert!(report.has_errors(), "refused in silence");
    }
}

/// Header lines under the connection manager's rules: nothing that concerns one hop stays, and nobody outside passes for one inside.
pub fn request_headers(input: &[u8]) {
    let sent = lines(input);
    let peer: IpAddr = "198.51.100.7".parse().unwrap();
    for rules in rules() {
        for upgrade in [false, true] {
            let mut headers = sent.clone();
            if remove_hop_by_hop(&mut headers, upgrade).is_err() {
                continue;
            }
            assert!(!headers.contains_key(header::TRANSFER_ENCODING));
            assert!(upgrade || !headers.contains_key(header::CONNECTION));
            let downstream = Downstream::new(Some(peer), Some(8443), true);
            let Ok(origin) = admit_request(&mut headers, &rules, &downstream, 1) else { continue };
            if rules.use_remote_address {
                assert!(!origin.internal, "the peer is none of ours");
                assert!(!headers.contains_key(X_ENVOY_INTERNAL));
                assert!(rules.xff_num_trusted_hops > 0 || origin.client == Some(peer));
                let last = headers.get_all(X_FORWARDED_FOR).iter().next_back().map(HeaderValue::as_bytes);
                assert!(last.is_some_and(|last| last.ends_with(b"198.51.100.7")));
            }
            if rules.client_cert.forwarding == Forwarding::Sanitize {
                assert!(!headers.contains_key(X_FORWARDED_CLIENT_CERT));
            }
            finish_response(&mut headers, &rules, None);
        }
    }
}

fn rules() -> Vec<HeaderRules> {
    let ranges = vec![CidrRange::new("198.51.100.0".parse().unwrap(), 24).unwrap()];
    let detection = |detection| HeaderRules { ip_detection: vec![detection], ..HeaderRules::default() };
    let name = HeaderName::from_static("x-client");
    let client_cert = ClientCertRules { forwarding: Forwarding::AlwaysForwardOnly, details: CertDetails::default() };
    vec![
        HeaderRules { use_remote_address: true, via: Some(HeaderValue::from_static("me")), ..HeaderRules::default() },
        HeaderRules { use_remote_address: true, xff_num_trusted_hops: 1, ..HeaderRules::default() },
        HeaderRules { xff_num_trusted_hops: 2, ipv4_as_ipv6: true, client_cert, ..HeaderRules::default() },
        detection(IpDetection::TrustedHops { hops: 1, append: true }),
        detection(IpDetection::TrustedRanges { ranges, append: false }),
        detection(IpDetection::Header { name, trusted: true, reject: None }),
    ]
}

/// A request in lines, looked up in a table with every kind of condition and of rewrite: it gets the same route twice, and goes on
/// with a path.
pub fn routes(input: &[u8]) {
    thread_local! {
        static TABLE: Rc<Arc<RouteConfiguration>> = Rc::new(Arc::new(table()));
    }
    let Some(mut request) = request(input) else { return };
    let table = TABLE.with(Rc::clone);
    let (mut info, runtime) = (StreamInfo::sample(), Runtime::default());
    let lookup = |random| {
        let lookup = Lookup { request: &request, info: &info, registered: &Rc::default(), runtime: &runtime, random };
        RouteConfiguration::find(&table, &lookup)
    };
    let Some(route) = lookup(7) else { return };
    assert_eq!(lookup(7).map(|route| route.place()), Some(route.place()));
    let cluster: Arc<str> = route.cluster(&request).unwrap_or_default().into();
    match &route.action {
        Action::Redirect(redirect) => {
            let location = redirect.location(&request, &info);
            assert!(location.contains("://"), "{location}");
        }
        Action::Forward(_) => {
            let _ = route.counted_by(&request);
            route.finalize_request(&mut request, &mut info, &cluster, Originals::Told);
            route.finalize_host(&mut request, "host.test", Originals::Told);
            let path = request.uri().path_and_query().map_or("", |path| path.as_str());
            assert!(path.starts_with('/') || path == "*" || *request.method() == http::Method::CONNECT, "{path:?}");
        }
        Action::DirectResponse(_) | Action::NonForwarding => {}
    }
    route.finalize_response(&mut HeaderMap::new(), &info);
}

fn table() -> RouteConfiguration {
    let report = Report::new();
    let proto = config::load(&Source::new("routes.yaml", include_str!("routes.yaml")), &report).unwrap_or_default();
    let cluster_names: HashSet<Arc<str>> = [Arc::from("up")].into();
    let surroundings = Surroundings { cluster_names: &cluster_names, stats: &Registry::new(1), filter_settings: &[] };
    let table = RouteConfiguration::from_proto(&proto, Field::root(&report), surroundings);
    assert!(!report.has_errors(), "{:?}", report.into_problems());
    table
}

/// `GET /path`, then header lines.
fn request(input: &[u8]) -> Option<Request<()>> {
    let (line, rest) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len()));
    let (method, target) = str::from_utf8(line).ok()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target).body(()).ok()?;
    *request.headers_mut() = lines(rest);
    Some(request)
}

/// The lines that are header fields.
fn lines(input: &[u8]) -> HeaderMap {
    let fields = input.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?))
    });
    let mut headers = HeaderMap::new();
    fields.for_each(|(name, value)| _ = headers.append(name, value));
    headers
}
