//! One test: a request is made up, its route found, and what the route makes of it compared with what is wanted.

use std::rc::Rc;

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{
    coverage::{Aspect, Coverage},
    table::Table,
};
use crate::{
    config::{Field, Report},
    http::{
        authority,
        headers::{X_ENVOY_INTERNAL, X_FORWARDED_PROTO},
        local_reply::LocalReply,
    },
    matcher::HeaderMatcher,
    proto::{
        self,
        core::HeaderValue as HeaderProto,
        route_check::{ValidationAssert, ValidationInput, ValidationItem},
    },
    route::{Action, Lookup, Originals, RouteConfiguration, RouteRef},
    stream_info::StreamInfo,
};

/// Runs a test; answers what was not as wanted.
pub(super) fn run(item: &ValidationItem, table: &Table, coverage: &mut Coverage) -> anyhow::Result<Vec<String>> {
    let (input, wanted) = (item.input.clone().unwrap_or_default(), item.validate.clone().unwrap_or_default());
    let outcome = Outcome::of(&input, table)?;
    let mut failures = outcome.compare(&wanted, coverage);
    let Outcome { request, response, .. } = &outcome;
    for proto in &wanted.request_header_matches {
        if !matcher(proto)?.matches(request) {
            failures.push(header_failure("request", proto, request.headers()));
        }
    }
    for proto in &wanted.response_header_matches {
        if !matcher(proto)?.matches_headers(response) {
            failures.push(header_failure("response", proto, response));
        }
    }
    for (wanted, headers, what) in [
        (&wanted.request_header_fields, request.headers(), "request_header_fields"),
        (&wanted.response_header_fields, response, "response_header_fields"),
    ] {
        for HeaderProto { key, value, .. } in wanted {
            failures.extend(failure(value, shown(headers, key), what));
        }
    }
    Ok(failures)
}

/// What becomes of a request.
struct Outcome {
    route: Option<RouteRef>,
    cluster: String,
    location: String,
    /// As it goes upstream, if it does.
    request: Request<()>,
    response: HeaderMap,
}

impl Outcome {
    fn of(input: &ValidationInput, table: &Table) -> anyhow::Result<Outcome> {
        let mut request = request(input)?;
        let mut response = HeaderMap::new();
        append(&mut response, &input.additional_response_headers)?;
        let mut info = StreamInfo::sample();
        info.method = Some(request.method().clone());
        let lookup = Lookup {
            request: &request,
            info: &info,
            registered: &Rc::default(),
            runtime: &table.runtime(&input.runtime),
            random: input.random_value,
        };
        let route = RouteConfiguration::find(&table.routes, &lookup);
        let (mut cluster, mut location) = (String::new(), String::new());
        if let Some(route) = &route {
            route.cluster(&request).unwrap_or_default().clone_into(&mut cluster);
            match &route.action {
                Action::Redirect(redirect) => location = redirect.location(&request, &info),
                Action::Forward(_) => {
                    route.finalize_request(&mut request, &mut info, &cluster.as_str().into(), Originals::Told);
                }
                Action::NonForwarding => {}
                // As in Envoy's tool: it answers in place of the URL that was asked for.
                Action::DirectResponse(direct) => {
                    location = requested_url(input);
                    let reply = LocalReply::direct_response(direct.status, direct.body.clone());
                    if !direct.body.is_empty() {
                        response.extend(reply.into_response(false).into_parts().0.headers);
                    }
                }
            }
            route.finalize_response(&mut response, &info);
        }
        Ok(Outcome { route, cluster, location, request, response })
    }

    fn compare(&self, wanted: &ValidationAssert, coverage: &mut Coverage) -> Vec<String> {
        let forwards = self.route.as_ref().filter(|route| matches!(route.action, Action::Forward(_)));
        let answers = self.route.as_ref().filter(|_| forwards.is_none());
        let virtual_cluster = forwards.and_then(|route| route.counted_by(&self.request).virtual_cluster);
        let virtual_host = forwards.map_or("", RouteRef::virtual_host_name);
        let path = forwards.and_then(|_| self.request.uri().path_and_query()).map_or("", |path| path.as_str());
        let host = forwards.and_then(|_| authority(&self.request)).unwrap_or_default();
        let status = answers.map_or(0, |route| match &route.action {
            Action::Redirect(redirect) => redirect.status.as_u16(),
            Action::DirectResponse(direct) => direct.status.as_u16(),
            Action::Forward(_) | Action::NonForwarding => 0,
        });
        let mut failures = Vec::new();
        let mut check = |wanted: Option<String>, got: &str, what, aspect, route: Option<&RouteRef>| {
            let Some(wanted) = wanted else { return };
            match (failure(&wanted, got, what), route.and_then(RouteRef::place)) {
                (Some(failure), _) => failures.push(failure),
                (None, Some(place)) => coverage.mark(place, aspect),
                (None, None) => {}
            }
        };
        let text = |value: &Option<proto::StringValue>| value.as_ref().map(|value| value.value.clone());
        let cluster_stat = virtual_cluster.map_or("", |stats| stats.name());
        check(text(&wanted.cluster_name), &self.cluster, "cluster_name", Aspect::Cluster, forwards);
        check(
            text(&wanted.virtual_cluster_name),
            cluster_stat,
            "virtual_cluster_name",
            Aspect::VirtualCluster,
            forwards,
        );
        check(text(&wanted.virtual_host_name), virtual_host, "virtual_host_name", Aspect::VirtualHost, forwards);
        check(text(&wanted.path_rewrite), path, "path_rewrite", Aspect::PathRewrite, forwards);
        check(text(&wanted.host_rewrite), host, "host_rewrite", Aspect::HostRewrite, forwards);
        check(text(&wanted.path_redirect), &self.location, "path_redirect", Aspect::PathRedirect, answers);
        let code = wanted.code_redirect.as_ref().map(|code| code.value.to_string());
        check(code, &status.to_string(), "code_redirect", Aspect::CodeRedirect, answers);
        failures
    }
}

fn requested_url(input: &ValidationInput) -> String {
    let scheme = if input.ssl { "https" } else { "http" };
    format!("{scheme}://{}{}", input.authority, input.path)
}

/// The request of a test, as the connection manager would hand it to the routes.
fn request(input: &ValidationInput) -> anyhow::Result<Request<()>> {
    let ValidationInput { authority, path, method, ssl, internal, additional_request_headers, .. } = input;
    let mut request = Request::builder()
        .method(method.as_str())
        .uri(path.as_str())
        .header(header::HOST, authority)
        .header(X_FORWARDED_PROTO, if *ssl { "https" } else { "http" })
        .body(())
        .with_context(|| format!("{method} {path:?} at {authority:?} is no request"))?;
    if *internal {
        request.headers_mut().insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    }
    append(request.headers_mut(), additional_request_headers)?;
    Ok(request)
}

fn append(headers: &mut HeaderMap, protos: &[HeaderProto]) -> anyhow::Result<()> {
    for HeaderProto { key, value, .. } in protos {
        let name = HeaderName::from_bytes(key.as_bytes()).with_context(|| format!("{key:?} is no header name"))?;
        let value = HeaderValue::from_str(value).with_context(|| format!("{value:?} is no header value"))?;
        headers.append(name, value);
    }
    Ok(())
}

fn matcher(proto: &proto::route::HeaderMatcher) -> anyhow::Result<HeaderMatcher> {
    let report = Report::new();
    let matcher = HeaderMatcher::from_proto(proto, Field::root(&report));
    if let Some(problem) = report.into_problems().first() {
        bail!("the matcher of the header {:?}: {problem}", proto.name);
    }
    matcher.with_context(|| format!("the matcher of the header {:?} is not understood", proto.name))
}

fn failure(wanted: &str, got: &str, what: &str) -> Option<String> {
    (wanted != got).then(|| format!("expected: [{wanted}], actual: [{got}], test type: {what}"))
}

fn header_failure(side: &str, proto: &proto::route::HeaderMatcher, headers: &HeaderMap) -> String {
    let name = &proto.name;
    format!("actual: [{name}: {}], test type: {side}_header_matches", shown(headers, name))
}

/// The first value of a header, for people.
fn shown<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or_default())
}
