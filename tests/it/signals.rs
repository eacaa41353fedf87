//! What the process is told by signals, and what it tells the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::support::{
    message::get,
    portreeve::Config,
    upstream::{self, Reply},
};

fn file_log(path: &Path) -> String {
    format!(
        r#"access_log: [ {{ name: log, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
             path: {}, log_format: {{ text_format_source: {{ inline_string: "%REQ(:PATH)%\n" }} }} }} }} ]"#,
        path.display()
    )
}

#[tokio::test]
async fn sigusr1_opens_renamed_logs_again() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let directory = tempfile::tempdir().unwrap();
    let (log, renamed) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let mut portreeve = Config::to(&upstream).manager(&file_log(&log)).start().await;
    portreeve.get("/one").await;
    std::fs::rename(&log, &renamed).unwrap();
    portreeve.signal(Signal::USR1);
    portreeve.log("reopening").await;
    portreeve.until("filesystem.write_buffered", 1).await;
    portreeve.get("/two").await;
    portreeve.terminate();
    assert!(portreeve.ended().await.success());
    let text = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!((text(&renamed).as_str(), text(&log).as_str()), ("/one\n", "/two\n"));
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let mut portreeve = Config::to(&upstream).start().await;
    let client = portreeve.http2().await;
    let _exchange = client.open(get("/")).await;
    portreeve.until("cluster.upstream.upstream_rq_active", 1).await;
    portreeve.terminate();
    portreeve.log("draining").await;
    portreeve.terminate();
    assert!(portreeve.ended().await.success());
}

#[tokio::test]
async fn a_service_manager_that_watches_hears_that_all_is_well() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let config = Config::to(&upstream).environment("NOTIFY_SOCKET", path.display());
    let _portreeve = config.environment("WATCHDOG_USEC", 90_000).start().await;
    let mut pings = 0;
    while pings < 3 {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        pings += usize::from(&message[..length] == b"WATCHDOG=1\n" || &message[..length] == b"WATCHDOG=1");
    }
}

#[tokio::test]
async fn the_service_manager_hears_of_start_and_end() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let heard = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let portreeve = Config::to(&upstream).environment("NOTIFY_SOCKET", path.display()).start().await;
    assert!(heard().starts_with("READY=1\nSTATUS="));
    assert!(heard().starts_with("FDSTORE=1\nFDNAME=main/127.0.0.1_0"), "sockets are kept for a restart");
    assert!(heard().starts_with("FDSTORE=1\nFDNAME=/127.0.0.1_0"));
    portreeve.terminate();
    assert!(heard().starts_with("STOPPING=1\nSTATUS="));
    assert!(portreeve.ended().await.success());
}
