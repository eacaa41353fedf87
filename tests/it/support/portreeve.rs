//! The built Portreeve, started with a configuration made for the test.
//!
//! The configuration is YAML in flow style, so that tests splice in fragments without care for indentation. All ports are
//! 0: the really bound ones are read from the start-up report on standard error, which also says when all is up.

use std::{
    collections::HashMap,
    fmt::Display,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc};

use super::{
    client::{self, Client},
    message::{Answer, Request, get},
    upstream::Upstream,
    within,
};

/// A configuration: one HTTP listener called `main`, with routes to clusters, and whatever a test adds.
pub struct Config {
    virtual_hosts: String,
    manager: String,
    chain: String,
    listeners: String,
    clusters: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    /// In place of all else.
    document: Option<String>,
}

impl Config {
    /// Everything goes to the cluster `upstream`.
    pub fn new() -> Config {
        Config {
            virtual_hosts: String::new(),
            manager: String::new(),
            chain: String::new(),
            listeners: String::new(),
            clusters: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            document: None,
        }
        .routes("{ match: { prefix: / }, route: { cluster: upstream } }")
    }

    /// A document that is complete as it is.
    pub fn document(document: String) -> Config {
        Config { document: Some(document), ..Config::new() }
    }

    /// The common case: everything goes to this one upstream, which speaks HTTP/1.1.
    pub fn to(upstream: &Upstream) -> Config {
        Config::new().cluster("upstream", upstream)
    }

    /// The routes of the one virtual host, as members of a list.
    #[must_use]
    pub fn routes(self, routes: &str) -> Config {
        self.virtual_hosts(&virtual_host(routes))
    }

    /// The virtual hosts, as members of a list.
    #[must_use]
    pub fn virtual_hosts(mut self, virtual_hosts: &str) -> Config {
        virtual_hosts.clone_into(&mut self.virtual_hosts);
        self
    }

    /// More fields of the connection manager of `main`, such as `stream_idle_timeout: 1s`.
    #[must_use]
    pub fn manager(mut self, fields: &str) -> Config {
        self.manager = format!("{}, {fields}", self.manager);
        self
    }

    /// More fields of the filter chain of `main`.
    #[must_use]
    pub fn chain(mut self, fields: &str) -> Config {
        self.chain = format!("{}, {fields}", self.chain);
        self
    }

    /// TLS on `main` with this certificate file, offering HTTP/2 and HTTP/1.1; `fields` are more of `common_tls_context`'s.
    #[must_use]
    pub fn tls(self, pem: &Path, fields: &str) -> Config {
        self.chain(&transport_socket(pem, fields, ""))
    }

    /// A whole further listener.
    #[must_use]
    pub fn listener(mut self, listener: &str) -> Config {
        self.listeners = format!("{}, {listener}", self.listeners);
        self
    }

    /// A cluster that speaks HTTP/1.1.
    #[must_use]
    pub fn cluster(self, name: &str, upstream: &Upstream) -> Config {
        self.cluster_with(name, upstream.address, "")
    }

    /// A cluster that speaks HTTP/2.
    #[must_use]
    pub fn http2_cluster(self, name: &str, upstream: &Upstream) -> Config {
        self.cluster_with(name, upstream.address, HTTP2)
    }

    /// A cluster of one address with more fields, which begin with a comma.
    #[must_use]
    pub fn cluster_with(mut self, name: &str, address: SocketAddr, fields: &str) -> Config {
        let cluster = format!(
            "{{ name: {name}, connect_timeout: 1s, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [
               {{ endpoint: {{ address: {} }} }} ] }} ] }} {fields} }},",
            socket_address(address)
        );
        self.clusters.push_str(&cluster);
        self
    }

    /// One more command-line argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Display) -> Config {
        self.arguments.push(argument.to_string());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Display) -> Config {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// So many file descriptors and no more.
    #[must_use]
    pub fn descriptors(self, limit: u32) -> Config {
        Config { descriptors: Some(limit), ..self }
    }

    /// The document.
    pub fn yaml(&self) -> String {
        if let Some(document) = &self.document {
            return document.clone();
        }
        let main = format!(
            "{{ name: main, address: {}, filter_chains: [ {{ filters: [ {} ] {} }} ] }}",
            socket_address(([127, 0, 0, 1], 0).into()),
            connection_manager(&self.virtual_hosts, &self.manager),
            self.chain,
        );
        format!(
            "{{ admin: {{ address: {} }}, static_resources: {{ listeners: [ {main} {} ], clusters: [ {} ] }} }}\n",
            socket_address(([127, 0, 0, 1], 0).into()),
            self.listeners,
            self.clusters,
        )
    }

    fn command(&self) -> Command {
        const PORTREEVE: &str = env!("CARGO_BIN_EXE_portreeve");
        let Some(limit) = self.descriptors else { return Command::new(PORTREEVE) };
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n "$0" && exec "$@""#, &limit.to_string(), PORTREEVE]);
        command
    }

    /// Starts Portreeve and waits until it serves.
    pub async fn start(self) -> Portreeve {
        let mut process = Process::start(&self);
        let mut listeners = HashMap::new();
        let mut admin = None;
        let mut report = Vec::new();
        loop {
            let line = within("the start-up report", process.log.recv()).await;
            let Some(line) = line else { panic!("Portreeve ended at start-up:\n{}", report.join("\n")) };
            match StartUp::parse(&line) {
                Some(StartUp::Listener(name, address)) => drop(listeners.insert(name, address)),
                Some(StartUp::Admin(address)) => admin = Some(address),
                Some(StartUp::Ready) => break,
                None => {}
            }
            report.push(line);
        }
        let admin = admin.expect("an admin address in the start-up report");
        Portreeve { process, listeners, admin, successors: Vec::new() }
    }

    /// Starts Portreeve where it cannot: how it ended, and what it said.
    pub async fn fail(self) -> (ExitStatus, String) {
        let mut process = Process::start(&self);
        let mut log = String::new();
        while let Some(line) = within("the end of the process", process.log.recv()).await {
            log.push_str(&line);
            log.push('\n');
        }
        (process.child.wait().unwrap(), log)
    }
}

/// The fields that make a cluster speak HTTP/2.
pub const HTTP2: &str = r#", typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
    explicit_http_config: { http2_protocol_options: {} } } }"#;

/// A virtual host for every domain.
pub fn virtual_host(routes: &str) -> String {
    format!(r#"{{ name: all, domains: ["*"], routes: [ {routes} ] }}"#)
}

/// A connection manager; `fields` begin with a comma.
pub fn connection_manager(virtual_hosts: &str, fields: &str) -> String {
    let filters = if fields.contains("http_filters") { String::new() } else { format!(", http_filters: [ {ROUTER} ]") };
    format!(
        r#"{{ name: http, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
             stat_prefix: main, route_config: {{ name: local, virtual_hosts: [ {virtual_hosts} ] }} {filters} {fields} }} }}"#
    )
}

/// The router, which ends every list of HTTP filters.
pub const ROUTER: &str = r#"{ name: router, typed_config: {
    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }"#;

/// A filter chain's field for TLS: `common` are more fields of `common_tls_context`, `context` of the context itself;
/// each begins with a comma.
pub fn transport_socket(pem: &Path, common: &str, context: &str) -> String {
    let pem = pem.display();
    format!(
        r#"transport_socket: {{ name: tls, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
             common_tls_context: {{ alpn_protocols: [h2, http/1.1], tls_certificates: [
               {{ certificate_chain: {{ filename: "{pem}" }}, private_key: {{ filename: "{pem}" }} }} ] {common} }} {context} }} }}"#
    )
}

fn socket_address(address: SocketAddr) -> String {
    format!("{{ socket_address: {{ address: \"{}\", port_value: {} }} }}", address.ip(), address.port())
}

/// A line of the start-up report that tests care for.
enum StartUp {
    Listener(String, SocketAddr),
    Admin(SocketAddr),
    Ready,
}

impl StartUp {
    fn parse(line: &str) -> Option<StartUp> {
        let field = |name: &str| {
            let rest = &line[line.find(&format!(" {name}="))? + name.len() + 2..];
            Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
        };
        if line.contains("listener started") {
            return Some(StartUp::Listener(field("listener")?, field("address")?.parse().ok()?));
        }
        if line.contains("admin interface available") {
            return Some(StartUp::Admin(field("address")?.parse().ok()?));
        }
        line.ends_with("ready").then_some(StartUp::Ready)
    }
}

/// The process and what it says. It is killed with this value.
struct Process {
    child: Child,
    /// Lines of standard error.
    log: mpsc::UnboundedReceiver<String>,
    /// Lines of standard output.
    output: mpsc::UnboundedReceiver<String>,
    directory: TempDir,
}

impl Process {
    fn start(config: &Config) -> Process {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("envoy3.yaml");
        std::fs::write(&file, config.yaml()).unwrap();
        // A socket, as under systemd: it cannot be opened by the name /dev/stdout.
        let (output, stdout) = UnixStream::pair().unwrap();
        let mut child = config
            .command()
            .args(["run", "--concurrency", "2", "-c"])
            .arg(file)
            .arg("--control-path")
            .arg(directory.path().join("control.sock"))
            .args(&config.arguments)
            .envs(config.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(stdout))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let output = lines(output);
        Process { child, log, output, directory }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, as they come.
fn lines(pipe: impl Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A running Portreeve; it is killed with this value.
pub struct Portreeve {
    process: Process,
    listeners: HashMap<String, SocketAddr>,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// The processes that have taken over, the serving one last.
    successors: Vec<Pid>,
}

impl Drop for Portreeve {
    fn drop(&mut self) {
        for successor in &self.successors {
            // It may have ended by itself.
            let _ = kill_process(*successor, Signal::KILL);
        }
    }
}

impl Portreeve {
    /// Where a listener is bound.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.listeners[name]
    }

    /// Where `main` is bound.
    pub fn address(&self) -> SocketAddr {
        self.listener("main")
    }

    /// A plain connection to `main`.
    pub async fn connect(&self) -> TcpStream {
        client::connect(self.address()).await
    }

    /// An HTTP/1.1 client of `main`.
    pub async fn http1(&self) -> Client {
        client::http1(self.connect().await).await
    }

    /// An HTTP/2 client of `main`, by prior knowledge.
    pub async fn http2(&self) -> Client {
        client::http2(self.connect().await).await
    }

    /// One request on an HTTP/1.1 connection of its own.
    pub async fn send(&self, request: Request) -> Answer {
        self.http1().await.send(request).await
    }

    /// One `GET` on an HTTP/1.1 connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(get(path)).await
    }

    /// What the admin interface answers to a `GET`.
    pub async fn admin(&self, path: &str) -> Answer {
        let request = get(path).host(&self.admin.to_string());
        client::http1(client::connect(self.admin).await).await.send(request).await
    }

    /// The value of a counter or gauge.
    pub async fn stat(&self, name: &str) -> u64 {
        let answer = self.admin("/stats").await;
        let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no stat {name} in:\n{}", answer.text())).parse().unwrap()
    }

    /// Waits until a counter or gauge has this value.
    pub async fn until(&self, name: &str, value: u64) {
        let reached = async { while self.stat(name).await != value {} };
        within(name, reached).await;
    }

    /// The next line of standard output: where the tests put access logs.
    pub async fn output(&mut self) -> String {
        within("a line of output", self.process.output.recv()).await.expect("Portreeve runs")
    }

    /// The next line of the daemon's log that contains `text`.
    pub async fn log(&mut self, text: &str) -> String {
        loop {
            let line = within(text, self.process.log.recv()).await.expect("Portreeve runs");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Runs `portreeve reload --wait`: its exit status and what it said on standard error.
    pub async fn reload(&mut self) -> (ExitStatus, String) {
        let command = self.command(&["reload", "--wait"]);
        let output = tokio::task::spawn_blocking(move || { command }.output()).await.unwrap().unwrap();
        if output.status.success() {
            let pid = self.serving_pid().await;
            self.successors.push(pid);
        }
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// The process that answers by the control socket.
    pub async fn serving_pid(&self) -> Pid {
        let command = self.command(&["status", "--format", "json"]);
        let output = tokio::task::spawn_blocking(move || { command }.output()).await.unwrap().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command.args(arguments).env("PORTREEVE_CONTROL", self.file("control.sock"));
        command
    }

    /// Changes the configuration file.
    pub fn configure(&self, config: &Config) {
        std::fs::write(self.file("envoy3.yaml"), config.yaml()).unwrap();
    }

    /// A file name in a directory that goes with the process.
    pub fn file(&self, name: &str) -> PathBuf {
        self.process.directory.path().join(name)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal to the process that serves.
    pub fn signal(&self, signal: Signal) {
        let pid = self.successors.last().copied().unwrap_or(Pid::from_child(&self.process.child));
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the process, and all that took over from it, to end; how the first one did.
    pub async fn ended(mut self) -> ExitStatus {
        while within("the end of all processes", self.process.log.recv()).await.is_some() {}
        self.process.child.wait().unwrap()
    }
}
