//! A whole connection: what a client may send to a listener with everything switched on, up to an upstream that is not there.

use std::{os::unix::net::UnixListener, rc::Rc, time::Duration};

use portreeve::{
    access_log,
    config::{self, Report, Source},
    drain::Drain,
    filter::{Random, Services, WorkerContext},
    listener,
    proto::bootstrap::Bootstrap,
    snapshot::{Change, ConfigManager},
    stats::Registry,
    sys::socket::ListenSocket,
    upstream::ClusterManager,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Runtime,
    sync::{mpsc, watch},
    task::LocalSet,
    time::timeout,
};

/// Bytes on a connection: it ends when the client has sent all and says so, an hour of the paused clock later at most.
pub fn connection(input: &[u8]) {
    thread_local! {
        static SERVER: Server = Server::start();
    }
    SERVER.with(|server| server.serve(input));
}

/// A listener at work on this thread.
struct Server {
    runtime: Runtime,
    tasks: LocalSet,
    directory: TempDir,
    _drain: Drain,
}

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (tasks, directory, drain) = (LocalSet::new(), tempfile::tempdir().unwrap(), Drain::new());
        let socket = UnixListener::bind(directory.path().join("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();

        let report = Report::new();
        let document: Option<Bootstrap> =
            config::load(&Source::new("connection.yaml", include_str!("connection.yaml")), &report);
        let mut manager = ConfigManager::new(Registry::new(1), access_log::Mode::Check, Services::default());
        let applied = manager.apply(Change::Bootstrap(Box::new(document.unwrap_or_default()), &report));
        let Ok(snapshot) = applied else { panic!("{:?}", report.into_problems()) };
        let clusters = ClusterManager::new(1);
        clusters.update(&snapshot.clusters);
        let worker = Rc::new(WorkerContext::new(1, clusters, Random::new(1)));
        let listener = snapshot.listeners.values().next().expect("connection.yaml has a listener");
        let (sender, listener) = watch::channel(listener.clone());
        let watcher = drain.watch();
        tasks.spawn_local(async move {
            let _sender = sender;
            let (accepting, _) = mpsc::channel(1);
            listener::run(listener, ListenSocket::Unix(socket), worker, watcher, accepting).await
        });
        Server { runtime, tasks, directory, _drain: drain }
    }

    fn serve(&self, input: &[u8]) {
        let client = async {
            let mut client = UnixStream::connect(self.directory.path().join("socket")).await.unwrap();
            let (mut read, mut write) = client.split();
            let mut answer = Vec::new();
            let send = async {
                // Whoever refuses the first bytes may not take the rest.
                let _ = write.write_all(input).await;
                let _ = write.shutdown().await;
            };
            let _ = tokio::join!(send, read.read_to_end(&mut answer));
        };
        let ended = self.tasks.block_on(&self.runtime, async { timeout(Duration::from_hours(1), client).await });
        assert!(ended.is_ok(), "the connection does not end");
    }
}
