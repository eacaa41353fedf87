//! Redirects of the upstream that are followed here (`internal_redirect_policy`).
//!
//! The request is made anew for the URL of the redirect and goes through all filters again, as in Envoy. A redirect that must not be
//! followed goes to the client.

use http::{HeaderValue, Method, StatusCode, Uri, header, uri::Scheme};

use super::RouterStats;
use crate::{
    filter::http::{Redirects, Stream},
    http::{Request, Response, authority, body::Body, copy_head, set_authority, set_path},
    route::{InternalRedirectPolicy, Lookup, RedirectPredicate, RouteRef},
};

/// The request that follows a redirect; `None` if the response goes to the client. `sent` is the request that was redirected, without
/// its body.
pub(super) fn follow(
    policy: &InternalRedirectPolicy,
    route: &RouteRef,
    sent: &Request,
    response: &Response,
    stream: &mut Stream,
    stats: &RouterStats,
) -> Option<Request> {
    let location = response.headers().get(header::LOCATION)?;
    let Some((scheme, target)) = location.to_str().ok().and_then(absolute) else {
        stats.passthrough_internal_redirect_bad_location.inc();
        return None;
    };
    let from_http = stream.info.scheme != "https";
    let to_http = scheme == Scheme::HTTP;
    if !policy.allow_cross_scheme && from_http != to_http {
        stats.passthrough_internal_redirect_unsafe_scheme.inc();
        return None;
    }
    let redirects = stream.redirects.take().unwrap_or_default();
    let redirects = stream.redirects.insert(redirects);
    if redirects.followed >= policy.max_redirects {
        stats.passthrough_internal_redirect_too_many_redirects.inc();
        return None;
    }
    let next = next_request(policy, sent, response, &target, from_http)?;
    let worker = &stream.worker;
    let lookup = Lookup {
        request: &next,
        info: &stream.info,
        registered: &worker.registered_routes(),
        runtime: &worker.runtime(),
        random: worker.random.next_u64(),
    };
    let Some(goal) = route.find_again(&lookup) else {
        stats.passthrough_internal_redirect_no_route.inc();
        return None;
    };
    if !policy.predicates.iter().all(|predicate| accepts(predicate, route, &goal, redirects, !from_http && to_http)) {
        stats.passthrough_internal_redirect_predicate.inc();
        return None;
    }
    redirects.followed += 1;
    Some(next)
}

/// Scheme and the rest of an absolute URL; the fragment is for the client alone.
fn absolute(location: &str) -> Option<(Scheme, Uri)> {
    let url = location.split('#').next().unwrap_or_default();
    let uri = Uri::try_from(url).ok()?;
    let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))?.clone();
    uri.authority()?;
    Some((scheme, uri))
}

fn accepts(
    predicate: &RedirectPredicate,
    route: &RouteRef,
    goal: &RouteRef,
    redirects: &mut Redirects,
    downgrade: bool,
) -> bool {
    match predicate {
        RedirectPredicate::AllowListedRoutes(names) => names.contains(&goal.name),
        RedirectPredicate::SafeCrossScheme => !downgrade,
        RedirectPredicate::PreviousRoutes => {
            let step = (route.name.clone(), goal.name.clone());
            let new = !redirects.steps.contains(&step);
            if new {
                redirects.steps.push(step);
            }
            new
        }
    }
}

fn next_request(
    policy: &InternalRedirectPolicy,
    sent: &Request,
    response: &Response,
    target: &Uri,
    from_http: bool,
) -> Option<Request> {
    let mut next = copy_head(sent);
    for name in &policy.headers_to_copy {
        next.headers_mut().remove(name);
        for value in response.headers().get_all(name) {
            next.headers_mut().append(name, value.clone());
        }
    }
    let scheme = if from_http { "http" } else { "https" };
    let path = sent.uri().path_and_query().map_or("/", |path| path.as_str());
    let original = format!("{scheme}://{}{path}", authority(sent).unwrap_or_default());
    let host = HeaderValue::from_str(target.authority()?.as_str()).ok()?;
    set_authority(&mut next, host);
    set_path(&mut next, target.path_and_query().map_or("/", |path| path.as_str()).to_owned());
    next.headers_mut().insert("x-envoy-original-url", HeaderValue::from_str(&original).ok()?);
    let safe = matches!(*next.method(), Method::GET | Method::HEAD);
    if response.status() == StatusCode::SEE_OTHER && !safe {
        *next.method_mut() = Method::GET;
        next.headers_mut().remove(header::CONTENT_LENGTH);
        next.headers_mut().remove(header::TRANSFER_ENCODING);
        *next.body_mut() = Body::empty();
    }
    Some(next)
}
