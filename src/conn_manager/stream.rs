//! One request, from its headers to the moment when its response begins. Start reading here.
//!
//! The steps are those of Envoy's life of a request: admit, find the route, decode filters, router, encode filters. What comes
//! after the response's headers is in `response.rs`.

use std::rc::Rc;

use http::{HeaderValue, Method, StatusCode, header};

use super::{admission, connection::Connection, filter_chain::FilterChain, response::Exchange};
use crate::{
    http::{
        Request, Response,
        body::Body,
        headers,
        http1::{self, Refusal},
        local_reply::LocalReply,
        upgrade::{TcpTunnel, Upgrade, is_tunnel},
    },
    route::{Action, Lookup, RouteConfiguration, UpgradeConfig},
    stream_info::LogType,
};

/// Serves one request; the response's body runs on after this has returned.
pub(super) async fn serve(connection: Rc<Connection>, mut request: Request) -> Response {
    let method = request.method().clone();
    let mut exchange = Exchange::begin(connection, &mut request);
    let connection = Rc::clone(exchange.connection());
    let admitted = admission::admit(&connection, &mut request, &mut exchange.stream).and_then(|()| {
        connection.routes.remove_internal_only(&mut request);
        find_route(&connection, &mut request, &mut exchange)
    });
    let route = exchange.stream.route.as_ref();
    let mut chain = FilterChain::new(&connection.manager, &request, route, &connection.worker);
    exchange.keep_request_id(&request);
    if connection.manager.logs_start && admitted.is_ok() {
        exchange.stream.capture_request(&request);
        let cluster = exchange.stream.route.as_ref().and_then(|route| route.cluster(&request)).map(Into::into);
        exchange.stream.info.upstream_cluster = cluster;
        exchange.log_also(LogType::DownstreamStart);
        exchange.stream.info.upstream_cluster = None;
    }
    let mut answer = match admitted {
        Ok(()) => chain.decode(&mut request, &mut exchange.stream).await,
        Err(refusal) => {
            exchange.stream.capture_request(&request);
            Err(refusal)
        }
    };
    while let Some(redirected) = exchange.stream.redirected.take() {
        request = redirected;
        let found = find_route(&connection, &mut request, &mut exchange);
        let route = exchange.stream.route.as_ref();
        chain = FilterChain::new(&connection.manager, &request, route, &connection.worker);
        if let Ok(redirect) = &answer {
            exchange.follow_redirect(redirect.status(), &request);
        }
        answer = match found {
            Ok(()) => chain.decode(&mut request, &mut exchange.stream).await,
            Err(refusal) => Err(refusal),
        };
    }
    let mut response = match answer {
        Ok(response) => response,
        Err(reply) => exchange.local_reply(reply),
    };
    chain.encode(&mut response, &mut exchange.stream).await;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !upgraded && http1::is_bodiless(&method, response.status()) {
        *response.body_mut() = Body::empty();
    }
    finish_headers(&connection, &mut response, &mut exchange);
    if connection.manager.logs_tunnels && is_tunnel(&method, response.status()) {
        exchange.stream.info.response_code = Some(response.status().as_u16());
        exchange.log_also(LogType::DownstreamTunnelSuccessfullyEstablished);
    }
    exchange.watch_response(response)
}

/// Answers what is no request: counted and logged as one all the same.
pub(super) fn refuse(connection: &Rc<Connection>, refusal: Refusal) -> Response {
    let mut exchange = Exchange::begin_refused(Rc::clone(connection));
    if refusal == Refusal::HeaderTimeout {
        connection.manager.stats.downstream_rq_header_timeout.inc();
    }
    let mut response = exchange.local_reply(refusal.into_reply());
    finish_headers(connection, &mut response, &mut exchange);
    exchange.watch_response(response)
}

/// No route is no failure here: a filter may answer, and else the router says 404.
fn find_route(connection: &Connection, request: &mut Request, exchange: &mut Exchange) -> Result<(), LocalReply> {
    let worker = &connection.worker;
    let stream = &mut exchange.stream;
    let lookup = Lookup {
        request,
        info: &stream.info,
        registered: &worker.registered_routes(),
        runtime: &worker.runtime(),
        random: worker.random.next_u64(),
    };
    stream.route = RouteConfiguration::find(&connection.routes, &lookup);
    stream.info.route_name =
        stream.route.as_ref().filter(|route| !route.name.is_empty()).map(|route| route.name.as_str().into());
    if let Some(route) = &stream.route
        && let Action::Forward(forward) = &route.action
        && let Some(idle) = forward.idle_timeout
    {
        stream.timer.set_idle_timeout((!idle.is_zero()).then_some(idle));
    }
    // Without a route there is nothing to upgrade to: the request is answered as any other.
    if let Some(route) = &stream.route
        && let Some(Upgrade(protocol)) = request.extensions().get::<Upgrade>()
    {
        let config = upgrade_config(&route.action, protocol.as_bytes());
        if !config.map_or_else(|| is_upgrade_known(connection, protocol.as_bytes()), |config| config.enabled) {
            connection.manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            stream.info.upstream_cluster = route.cluster(&*request).map(Into::into);
            return Err(LocalReply::upgrade_failed());
        }
        if config.is_some_and(|config| config.ends_here) && request.method() == Method::CONNECT {
            request.extensions_mut().insert(TcpTunnel);
        }
        exchange.upgrade();
    }
    Ok(())
}

/// What the route says of a protocol; it counts before what the connection manager says.
fn upgrade_config<'a>(action: &'a Action, protocol: &[u8]) -> Option<&'a UpgradeConfig> {
    let Action::Forward(forward) = action else { return None };
    forward.upgrade_configs.iter().find(|config| config.upgrade_type.as_bytes().eq_ignore_ascii_case(protocol))
}

fn is_upgrade_known(connection: &Connection, protocol: &[u8]) -> bool {
    connection.manager.upgrades.iter().any(|config| config.enabled && config.is_for(protocol))
}

/// What every response carries, whoever made it.
fn finish_headers(connection: &Connection, response: &mut Response, exchange: &mut Exchange) {
    let manager = &connection.manager;
    let response_headers = response.headers_mut();
    // The codec frames the body anew, and a length that came beside another framing counts for nothing (RFC 9112 section 6.3).
    if response_headers.contains_key(header::TRANSFER_ENCODING) {
        response_headers.remove(header::CONTENT_LENGTH);
    }
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // A response may nominate what it likes: what cannot be honoured is left.
    let _ = headers::remove_hop_by_hop(response.headers_mut(), upgraded);
    headers::finish_response(response.headers_mut(), &manager.headers, exchange.take_request_id());
    if let Some(proxy_status) = &manager.proxy_status {
        proxy_status.append(response, &exchange.stream.info);
    }
    if !response.headers().contains_key(header::DATE) {
        response.headers_mut().insert(header::DATE, connection.worker.date.now());
    }
    if !exchange.stream.info.method.as_ref().is_some_and(|method| is_tunnel(method, response.status())) {
        exchange.refuse_upgrade();
    }
    if exchange.is_last() || connection.is_told() && !exchange.is_upgraded() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
