//! Listeners from their documents to the connections that they accept.

use std::{collections::HashSet, num::NonZeroUsize, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::LocalSet,
    time::timeout,
};

use super::{Listener, run};
use crate::{
    access_log,
    config::{self, Field, Report, Source},
    drain::{Drain, DrainMode, Watcher},
    filter::{
        DEFAULT_BUFFER_LIMIT, FactoryContext, LocalFuture, Random, Services, WorkerContext,
        network::{NetworkFilter, NetworkFilterFactory},
    },
    net::{Address, Alpn, ConnectionLimits, Io},
    proto,
    stats::Registry,
    stream_info::ConnectionInfo,
    tls::{Secrets, UpstreamTls, test_pki::Pki},
    upstream::ClusterManager,
};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// A filter for these tests, in the place of Envoy's echo: tells the client what it knows and waits until the client or the drain
/// ends the connection.
#[derive(Debug)]
struct Tell;

impl NetworkFilter for Tell {
    fn serve(
        self: Arc<Self>,
        mut io: Io,
        connection: Rc<ConnectionInfo>,
        _worker: Rc<WorkerContext>,
        mut drain: Watcher,
    ) -> LocalFuture<'static, ()> {
        Box::pin(async move {
            let tls = connection.tls.as_ref().map_or("plain", |tls| tls.version);
            let line = format!("{} {} {tls}\n", connection.listener, connection.filter_chain);
            if io.write_all(line.as_bytes()).await.is_ok() && io.flush().await.is_ok() {
                tokio::select! {
                    _ = io.read_u8() => {}
                    () = drain.draining() => drop(io.write_all(b"bye\n").await),
                }
            }
        })
    }
}

const TELL: NetworkFilterFactory = NetworkFilterFactory {
    name: "tell",
    type_name: "envoy.extensions.filters.network.echo.v3.Echo",
    from_proto: |_, _, _| Some(Arc::new(Tell)),
};

const FILTERS: &str = "filters: [{name: tell, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]";

struct Bench {
    registry: Arc<Registry>,
    limits: ConnectionLimits,
    drain: Drain,
}

impl Bench {
    fn new() -> Bench {
        Bench { registry: Registry::new(1), limits: ConnectionLimits::default(), drain: Drain::new() }
    }

    fn convert(&self, yaml: &str) -> (Option<Listener>, Vec<String>) {
        let report = Report::new();
        let proto: proto::listener::Listener = config::load(&Source::new("test", yaml), &report).unwrap();
        let cx = FactoryContext {
            listener_stats: None,
            stats: &self.registry,
            network_filters: &[TELL],
            http_filters: &[],
            filter_settings: &[],
            http_stats: None,
            services: &Services::default(),
            secrets: &Secrets::default(),
            cluster_names: &HashSet::new(),
            connection_limits: &self.limits,
            access_logs: &access_log::Sinks::new(access_log::Mode::Check, &self.registry.scope("")),
            service_cluster: "",
            service_node: "",
            buffer_limit: DEFAULT_BUFFER_LIMIT,
        };
        let listener = Listener::from_proto(&proto, Field::root(&report), &cx);
        (listener, report.into_problems().iter().map(ToString::to_string).collect())
    }

    /// Runs a listener on this thread and says where it listens.
    fn start(&self, yaml: &str) -> (Arc<Listener>, Vec<Address>) {
        let (listener, problems) = self.convert(yaml);
        assert_eq!(problems, Vec::<String>::new());
        let listener = Arc::new(listener.expect("no problem was reported"));
        let sockets =
            listener.addresses.iter().flat_map(|address| address.bind(Vec::new(), ONE).unwrap()).collect::<Vec<_>>();
        let addresses = sockets.iter().map(|socket| Address::of(socket).unwrap()).collect();
        let worker = Rc::new(WorkerContext::new(1, ClusterManager::new(1), Random::new(1)));
        for socket in sockets {
            let (listener, worker, drain) = (Arc::clone(&listener), Rc::clone(&worker), self.drain.watch());
            tokio::task::spawn_local(async move {
                run(
                    tokio::sync::watch::Sender::new(listener).subscribe(),
                    socket,
                    worker,
                    drain,
                    tokio::sync::mpsc::channel(1).0,
                )
                .await
                .unwrap();
            });
        }
        (listener, addresses)
    }
}

async fn connect(address: &Address) -> TcpStream {
    TcpStream::connect(address.socket_addr().unwrap()).await.unwrap()
}

async fn line(io: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    while let Ok(byte) = io.read_u8().await {
        if byte == b'\n' {
            break;
        }
        line.push(byte);
    }
    String::from_utf8(line).unwrap()
}

async fn is_closed(io: &mut (impl AsyncReadExt + Unpin)) -> bool {
    io.read(&mut [0]).await.map_or(true, |count| count == 0)
}

fn client(bench: &Bench, server_name: &str) -> UpstreamTls {
    let report = Report::new();
    let proto = config::load(&Source::new("test", format!("sni: '{server_name}'")), &report).unwrap();
    let scope = bench.registry.scope("cluster.test");
    UpstreamTls::from_proto(&proto, Field::root(&report), &Secrets::default(), &scope).unwrap()
}

#[tokio::test]
async fn chains_are_chosen_by_what_the_client_says_first() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let tls = format!(
        "transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{{certificate_chain: {{filename: {}}}}}]}}}}}}",
        pki.write("both.pem", &pki.issue(&["a.example"]).both())
    );
    let listener = format!(
        "name: web
address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
filter_chains:
- {{name: a, filter_chain_match: {{server_names: [a.example]}}, {tls}, {FILTERS}}}
- {{name: wild, filter_chain_match: {{server_names: ['*.example'], application_protocols: [h2]}}, {tls}, {FILTERS}}}
- {{name: plain, filter_chain_match: {{transport_protocol: raw_buffer}}, {FILTERS}}}
"
    );
    LocalSet::new()
        .run_until(async {
            let (listener, addresses) = bench.start(&listener);
            for (server_name, protocols, expected) in [
                ("a.example", &[][..], Some("web a TLSv1.3")),
                ("b.example", &[Alpn::H2], Some("web wild TLSv1.3")),
                ("b.example", &[Alpn::Http11], None),
                ("example.org", &[Alpn::H2], None),
            ] {
                let io = Io::tcp(connect(&addresses[0]).await).unwrap();
                let connected = client(&bench, server_name).connect(io, "", protocols).await;
                let told = match connected {
                    Ok((mut io, _)) => Some(line(&mut io).await),
                    Err(_) => None,
                };
                assert_eq!(told.as_deref(), expected, "{server_name} {protocols:?}");
            }
            let mut plain = connect(&addresses[0]).await;
            plain.write_all(b"hello").await.unwrap();
            assert_eq!(line(&mut plain).await, "web plain plain");
            assert_eq!(listener.stats.no_filter_chain_match.value(), 2);
            assert_eq!(listener.stats.downstream_cx_total.value(), 3);
        })
        .await;
}

#[tokio::test]
async fn connections_are_counted_and_limited() {
    let mut bench = Bench::new();
    bench.limits.of_listener.insert("web".into(), 1);
    let yaml = format!(
        "{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{{FILTERS}}}]}}"
    );
    LocalSet::new()
        .run_until(async {
            let (listener, addresses) = bench.start(&yaml);
            let mut first = connect(&addresses[0]).await;
            assert_eq!(line(&mut first).await, "web  plain");
            assert_eq!(listener.stats.downstream_cx_active.value(), 1);
            let mut second = connect(&addresses[0]).await;
            assert!(is_closed(&mut second).await);
            assert_eq!(listener.stats.downstream_cx_overflow.value(), 1);
            drop(first);
            while listener.stats.downstream_cx_destroy.value() == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(listener.stats.downstream_cx_active.value(), 0);
            assert_eq!(line(&mut connect(&addresses[0]).await).await, "web  plain");
        })
        .await;
}

#[tokio::test]
async fn draining_stops_accepting_and_asks_connections_to_end() {
    let bench = Bench::new();
    let yaml = format!(
        "{{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{{FILTERS}}}]}}"
    );
    LocalSet::new()
        .run_until(async {
            let (_, addresses) = bench.start(&yaml);
            let mut connection = connect(&addresses[0]).await;
            assert_eq!(line(&mut connection).await, "127.0.0.1:0  plain");
            bench.drain.start(DrainMode::Stop);
            assert_eq!(line(&mut connection).await, "bye");
            bench.drain.finished().await;
            assert!(TcpStream::connect(addresses[0].socket_addr().unwrap()).await.is_err());
        })
        .await;
}

#[tokio::test]
async fn the_deadline_cuts_what_is_left() {
    let bench = Bench::new();
    let yaml = format!(
        "{{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, listener_filters_timeout: 0s, \
         filter_chains: [{{filter_chain_match: {{transport_protocol: raw_buffer}}, {FILTERS}}}]}}"
    );
    LocalSet::new()
        .run_until(async {
            let (listener, addresses) = bench.start(&yaml);
            let mut silent = connect(&addresses[0]).await;
            while listener.stats.downstream_pre_cx_active.value() == 0 {
                tokio::task::yield_now().await;
            }
            bench.drain.start(DrainMode::Stop);
            assert!(timeout(Duration::from_millis(20), silent.read_u8()).await.is_err(), "it may still speak");
            bench.drain.deadline();
            assert!(is_closed(&mut silent).await);
            bench.drain.finished().await;
            assert_eq!(listener.stats.downstream_pre_cx_active.value(), 0);
        })
        .await;
}

#[tokio::test]
async fn silent_clients_are_not_awaited_for_ever() {
    for (continues, told) in [(false, ""), (true, "web  plain")] {
        let bench = Bench::new();
        let yaml = format!(
            "{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, listener_filters_timeout: 0.02s, \
             continue_on_listener_filters_timeout: {continues}, \
             filter_chains: [{{filter_chain_match: {{transport_protocol: raw_buffer}}, {FILTERS}}}]}}"
        );
        LocalSet::new()
            .run_until(async {
                let (listener, addresses) = bench.start(&yaml);
                let mut silent = connect(&addresses[0]).await;
                assert_eq!(line(&mut silent).await, told);
                assert_eq!(listener.stats.downstream_pre_cx_timeout.value(), 1);
            })
            .await;
    }
}

#[tokio::test]
async fn unix_sockets_and_several_addresses() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    let path = directory.path().join("web.sock");
    let yaml = format!(
        "{{name: web, address: {{pipe: {{path: {}, mode: 432}}}}, \
         additional_addresses: [{{address: {{socket_address: {{address: '::1', port_value: 0}}}}}}], filter_chains: [{{{FILTERS}}}]}}",
        path.display()
    );
    LocalSet::new()
        .run_until(async {
            let (_, addresses) = bench.start(&yaml);
            assert_eq!(line(&mut UnixStream::connect(&path).await.unwrap()).await, "web  plain");
            assert_eq!(line(&mut connect(&addresses[1]).await).await, "web  plain");
        })
        .await;
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let yaml = format!(
        "{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{{FILTERS}}}]}}"
    );
    let error = bench.convert(&yaml).0.unwrap().addresses[0].bind(Vec::new(), ONE).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on 127.0.0.1:{port}: the address is in use by another process")
    );
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let address = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}";
    let any = "typed_config: {'@type': type.googleapis.com/envoy.extensions.";
    let unsupported = "valid in Envoy, not implemented by Portreeve yet";
    for (yaml, problems) in [
        (
            format!("{{name: a, {address}, internal_listener: {{}}, freebind: true, filter_chains: [{{{FILTERS}}}]}}"),
            vec![
                "address: an internal listener has no address but its name".to_owned(),
                "freebind: is for listeners with sockets".into(),
            ],
        ),
        (
            "{filter_chains: [{filter_chain_match: {server_names: ['']}}]}".to_owned(),
            vec![
                "address: is required".to_owned(),
                "filter_chains[0].filters: without filters, every connection is closed at once".into(),
                "filter_chains[0].filter_chain_match.server_names[0]: \"\" is neither a name nor a wildcard such as *.example.com".into(),
            ],
        ),
        (format!("{{filter_chains: [{{{FILTERS}}}]}}"), vec!["address: is required".to_owned()]),
        (
            format!("{{address: {{socket_address: {{address: localhost, port_value: 80}}}}, filter_chains: [{{{FILTERS}}}]}}"),
            vec!["address.socket_address.address: \"localhost\" is not an IP address, such as 127.0.0.1, 0.0.0.0 or ::".into()],
        ),
        (format!("{{{address}}}"), vec!["filter_chains: a listener needs a filter chain".into()]),
        (
            format!("{{{address}, filter_chains: [{{{FILTERS}}}, {{name: b, {FILTERS}}}]}}"),
            vec!["filter_chains[1].filter_chain_match: the connections of this filter chain are the same as those of filter_chains[0]".into()],
        ),
        (
            format!("{{{address}, freebind: true, transparent: false, socket_options: [{{level: 1, name: 9, int_value: 1}}], filter_chains: [{{{FILTERS}}}]}}"),
            Vec::new(),
        ),
        (
            format!("{{{address}, filter_chains: [{{filters: [{{name: t, {any}filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, cluster: b}}}}]}}]}}"),
            vec![format!("filter_chains[0].filters[0].typed_config: {unsupported}")],
        ),
        (
            format!("{{{address}, filter_chains: [{{filters: [{{name: t, {any}filters.http.router.v3.Router}}}}]}}]}}"),
            vec!["filter_chains[0].filters[0].typed_config: \"envoy.extensions.filters.http.router.v3.Router\" is not a network filter; \
                  there are: envoy.extensions.filters.network.echo.v3.Echo, \
                  envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, \
                  envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit, \
                  envoy.extensions.filters.network.rbac.v3.RBAC, \
                  envoy.extensions.filters.network.sni_cluster.v3.SniCluster".into()],
        ),
        (
            format!("{{{address}, filter_chains: [{{transport_socket: {{name: t, {any}transport_sockets.tls.v3.UpstreamTlsContext}}}}, {FILTERS}}}]}}"),
            vec!["filter_chains[0].transport_socket.typed_config: an UpstreamTlsContext is for clusters: a listener has a DownstreamTlsContext".into()],
        ),
        (
            format!("{{{address}, filter_chains: [{{transport_socket: {{name: t, {any}transport_sockets.tls.v3.DownstreamTlsContext}}}}, {FILTERS}}}]}}"),
            vec!["filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificates: a server needs at least one certificate".into()],
        ),
        (
            format!("{{{address}, filter_chains: [{{}}]}}"),
            vec!["filter_chains[0].filters: without filters, every connection is closed at once".into()],
        ),
    ] {
        assert_eq!(Bench::new().convert(&yaml).1, problems, "{yaml}");
    }
}
