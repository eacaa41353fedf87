//! Routes that registrations hold, and where a configuration looks them up.

use std::{rc::Rc, sync::Arc};

use http::Request;

use super::{find_with, request, routes, table};
use crate::{
    route::{Originals, RegisteredRoute, RegisteredRoutes, RouteConfiguration, RouteKey, RouteRef},
    stream_info::StreamInfo,
};

const LOOKUP: &str = "{extension: {name: registered, typed_config: \
    {'@type': type.googleapis.com/portreeve.registration.v1.RegisteredRoutes}}}";

fn by_header(value: &str) -> RouteKey {
    RouteKey::Header("envoy-prefix".into(), value.into())
}

fn by_prefix(prefix: &str) -> RouteKey {
    RouteKey::Prefix(prefix.into())
}

fn to(cluster: &str) -> Option<RegisteredRoute> {
    Some(RegisteredRoute { cluster: cluster.into(), prefix_rewrite: Some("/".into()), available: true })
}

fn registered(routes: &[(RouteKey, &str)]) -> Rc<Arc<RegisteredRoutes>> {
    let changes = routes.iter().map(|(key, cluster)| (key.clone(), to(cluster)));
    Rc::new(Arc::new(RegisteredRoutes::default().with(changes)))
}

fn lookup() -> Rc<Arc<RouteConfiguration>> {
    routes(&format!(
        "
- name: registered
  match: {{prefix: /}}
  request_headers_to_add: [{{header: {{key: x-seen, value: seen}}}}]
  route: {{inline_cluster_specifier_plugin: {LOOKUP}, timeout: 7s}}
- {{name: static, match: {{prefix: /}}, route: {{cluster: up}}}}
"
    ))
}

fn find(registered: &Rc<Arc<RegisteredRoutes>>, request: &Request<()>) -> RouteRef {
    find_with(&lookup(), registered, request, 0).unwrap()
}

#[test]
fn a_route_matches_if_a_registered_one_does() {
    let registered = registered(&[
        (by_prefix("/worker/a"), "a"),
        (by_prefix("/worker/a/deep"), "deep"),
        (by_prefix("/b"), "b"),
        (by_header("h"), "h"),
    ]);
    for (path, prefix, cluster) in [
        ("/worker/a", None, "a"),
        ("/worker/a/", None, "a"),
        ("/worker/a/x/y?z", None, "a"),
        ("/worker/a?z=/b", None, "a"),
        ("/worker/ab", None, "up"),
        ("/worker/a/deeper", None, "a"),
        ("/worker/a/deep/x", None, "deep"),
        ("/worker", None, "up"),
        ("/", None, "up"),
        ("/b/c", None, "b"),
        ("/b/c", Some("h"), "h"),
        ("/c", Some("h"), "h"),
        ("/c", Some("other"), "up"),
        ("/b", Some(""), "b"),
        ("/c", Some(""), "up"),
    ] {
        let headers: Vec<_> = prefix.map(|value| ("envoy-prefix", value)).into_iter().collect();
        let request = request("GET", path, &headers);
        let route = find(&registered, &request);
        assert_eq!(route.cluster(&request), Some(cluster), "{path} {prefix:?}");
        assert_eq!(route.name, if cluster == "up" { "static" } else { "registered" });
    }
}

#[test]
fn the_root_can_be_registered() {
    let registered = registered(&[(by_prefix("/"), "root"), (by_prefix("/a"), "a")]);
    for (path, cluster) in [("/", "root"), ("/b/c", "root"), ("/a/", "a"), ("/ab", "root")] {
        let request = request("GET", path, &[]);
        assert_eq!(find(&registered, &request).cluster(&request), Some(cluster), "{path}");
    }
    let mut request = request("GET", "/b/c", &[]);
    find(&registered, &request).finalize_request(
        &mut request,
        &mut StreamInfo::sample(),
        &"up".into(),
        Originals::Told,
    );
    assert_eq!(request.uri().path(), "/b/c");
}

#[test]
fn prefixes_are_replaced_between_slashes() {
    for (rewrite, path, expected) in [
        (Some("/"), "/worker/a", "/"),
        (Some("/"), "/worker/a/", "/"),
        (Some("/"), "/worker/a/x?y", "/x?y"),
        (Some("/"), "/worker/a?y", "/?y"),
        (Some("/new"), "/worker/a", "/new"),
        (Some("/new"), "/worker/a/x", "/new/x"),
        (Some("/new/"), "/worker/a/x", "/new/x"),
        (Some("/worker/a"), "/worker/a/x", "/worker/a/x"),
        (None, "/worker/a/x", "/worker/a/x"),
    ] {
        let route = RegisteredRoute { cluster: "a".into(), prefix_rewrite: rewrite.map(Arc::from), available: true };
        let routes = RegisteredRoutes::default().with([(by_prefix("/worker/a"), Some(route))]);
        let mut request = request("GET", path, &[]);
        let route = find(&Rc::new(Arc::new(routes)), &request);
        route.finalize_request(&mut request, &mut StreamInfo::sample(), &"up".into(), Originals::Told);
        assert_eq!(request.uri().to_string(), expected, "{rewrite:?} {path}");
        // What the route of the configuration says holds as well.
        assert_eq!(request.headers()["x-seen"], "seen");
    }
}

#[test]
fn a_route_without_a_worker_still_matches() {
    let gone = RegisteredRoute { available: false, ..to("a").unwrap() };
    let routes = Rc::new(Arc::new(RegisteredRoutes::default().with([(by_header("a"), Some(gone))])));
    let request = request("GET", "/", &[("envoy-prefix", "a")]);
    assert!(!find(&routes, &request).is_available());
}

#[test]
fn plugins_have_names() {
    let registered = registered(&[(by_prefix("/a"), "a")]);
    let table = table(&format!(
        "
cluster_specifier_plugins: [{LOOKUP}]
virtual_hosts:
- name: v
  domains: ['*']
  routes: [{{match: {{prefix: /}}, route: {{cluster_specifier_plugin: registered}}}}]
"
    ));
    let request = request("GET", "/a", &[]);
    let route = find_with(&table, &registered, &request, 0).unwrap();
    assert_eq!(route.cluster(&request), Some("a"));
}

#[test]
fn changes_leave_the_old_table_alone() {
    let old = RegisteredRoutes::default().with([(by_prefix("/a"), to("a")), (by_header("h"), to("h"))]);
    let new = old.with([(by_prefix("/a"), None), (by_header("h"), to("h2")), (by_prefix("/b"), to("b"))]);
    let cluster = |table: &RegisteredRoutes, key| table.get(&key).map(|route| route.cluster.to_string());
    assert_eq!((old.len(), new.len()), (2, 2));
    assert_eq!(cluster(&old, by_prefix("/a")).as_deref(), Some("a"));
    assert_eq!(cluster(&new, by_prefix("/a")), None);
    assert_eq!(cluster(&old, by_header("h")).as_deref(), Some("h"));
    assert_eq!(cluster(&new, by_header("h")).as_deref(), Some("h2"));
    assert_eq!(cluster(&old, by_prefix("/b")), None);
    assert_eq!(cluster(&new, by_prefix("/b")).as_deref(), Some("b"));
    assert!(new.with([(by_header("h"), None), (by_prefix("/b"), None), (by_prefix("/c"), None)]).is_empty());
}

#[test]
fn a_found_route_outlives_its_table() {
    let request = request("GET", "/a", &[]);
    let route = find(&registered(&[(by_prefix("/a"), "a")]), &request);
    assert_eq!(route.cluster(&request), Some("a"));
}

#[test]
fn many_routes_are_found_again() {
    let keys: Vec<_> = (0..20_000)
        .map(|i| if i % 2 == 0 { by_header(&format!("w{i}")) } else { by_prefix(&format!("/worker/w{i}")) })
        .collect();
    let mut table = RegisteredRoutes::default().with(keys.iter().map(|key| (key.clone(), to("c"))));
    assert_eq!(table.len(), keys.len());
    for (i, key) in keys.iter().enumerate().step_by(97) {
        table = table.with([(key.clone(), to(&i.to_string()))]);
    }
    for (i, key) in keys.iter().enumerate() {
        let expected = if i % 97 == 0 { i.to_string() } else { "c".to_owned() };
        assert_eq!(*table.get(key).unwrap().cluster, *expected);
    }
    table = table.with(keys.iter().step_by(2).map(|key| (key.clone(), None)));
    assert_eq!(table.len(), keys.len() / 2);
    assert!(table.get(&keys[0]).is_none() && table.get(&keys[1]).is_some());
}
