//! Route configurations as people write them, and what becomes of requests. Answers of Envoy 1.40 where there is a doubt.

mod actions;
mod changes;
mod matching;
mod order;
mod problems;
mod registered;

use std::{collections::HashSet, rc::Rc, sync::Arc};

use http::Request;

use super::{Lookup, RegisteredRoutes, RouteConfiguration, RouteRef, Surroundings};
use crate::{
    config::{Field, Report, Source, load},
    runtime::Runtime,
    stats::Registry,
    stream_info::StreamInfo,
};

/// The table of a YAML document, and what was reported.
fn convert(yaml: &str) -> (RouteConfiguration, Vec<String>) {
    let report = Report::new();
    let proto = load(&Source::new("test.yaml", yaml), &report).unwrap_or_default();
    let cluster_names: HashSet<Arc<str>> = ["up", "other", "third"].map(Arc::from).into();
    let table = RouteConfiguration::from_proto(
        &proto,
        Field::root(&report),
        Surroundings { cluster_names: &cluster_names, stats: &Registry::new(1), filter_settings: &[] },
    );
    (table, report.into_problems().iter().map(ToString::to_string).collect())
}

/// The table of a YAML document in which nothing is wrong, but that some routes may never match.
fn table(yaml: &str) -> Rc<Arc<RouteConfiguration>> {
    let (table, mut problems) = convert(yaml);
    problems.retain(|problem| !problem.contains("can never match"));
    assert_eq!(problems, [""; 0]);
    Rc::new(Arc::new(table))
}

/// The table of one virtual host for all domains, from the YAML of its routes.
fn routes(yaml: &str) -> Rc<Arc<RouteConfiguration>> {
    let routes = yaml.trim_start_matches('\n').replace('\n', "\n  ");
    table(&format!("virtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n  {routes}"))
}

/// A GET of `path` at `example.com`.
fn get(path: &str) -> Request<()> {
    request("GET", path, &[])
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().method(method).uri(path).header("host", "example.com");
    let builder = builder.header("x-forwarded-proto", "http");
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
}

fn find<B>(table: &Rc<Arc<RouteConfiguration>>, request: &Request<B>) -> Option<RouteRef> {
    find_with(table, &Rc::default(), request, 0)
}

fn find_with<B>(
    table: &Rc<Arc<RouteConfiguration>>,
    registered: &Rc<Arc<RegisteredRoutes>>,
    request: &Request<B>,
    random: u64,
) -> Option<RouteRef> {
    let (info, runtime) = (StreamInfo::sample(), Runtime::default());
    RouteConfiguration::find(table, &Lookup { request, info: &info, registered, runtime: &runtime, random })
}

/// The name of the route of a request, `-` if there is none.
fn name<B>(table: &Rc<Arc<RouteConfiguration>>, request: &Request<B>) -> String {
    find(table, request).map_or("-".to_owned(), |route| route.name.clone())
}
