//! Bytes across: what a TCP proxy makes of two connections.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use super::support::{
    client,
    portreeve::{Config, Portreeve},
    upstream::{self, Upstream},
    within,
};

const FORMAT: &str = "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %ACCESS_LOG_TYPE%\\n";

/// A listener `tcp` whose filter has these fields, beside the clusters of `config`.
fn proxy(config: Config, fields: &str) -> Config {
    config.listener(&format!(
        r#"{{ name: tcp, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, filter_chains: [ {{ filters: [
             {{ name: tcp, typed_config: {{
               "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x,
               access_log: [ {{ name: log, typed_config: {{
                 "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog,
                 log_format: {{ text_format_source: {{ inline_string: "{FORMAT}" }} }} }} }} ],
               {fields} }} }} ] }} ] }}"#
    ))
}

async fn start(upstream: &Upstream, fields: &str) -> (Portreeve, SocketAddr) {
    let portreeve = proxy(Config::to(upstream), fields).start().await;
    let address = portreeve.listener("tcp");
    (portreeve, address)
}

async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let count = within("bytes", stream.read(&mut bytes)).await.unwrap();
    bytes.truncate(count);
    bytes
}

#[tokio::test]
async fn either_side_may_end_its_direction_first() {
    let upstream = upstream::raw(|mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(b"after your end: ").await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let upstream = upstream.await;
    let (mut portreeve, address) = start(&upstream, "cluster: upstream").await;
    let mut client = client::connect(address).await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    within("the answer", client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "after your end: hello");
    assert_eq!(portreeve.output().await, "- 5 21 upstream TcpConnectionEnd");

    let upstream = upstream::raw(|mut stream, _| async move {
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
    });
    let upstream = upstream.await;
    let (mut portreeve, address) = start(&upstream, "cluster: upstream").await;
    let mut client = client::connect(address).await;
    assert_eq!(read(&mut client).await, b"bye");
    assert_eq!(read(&mut client).await, b"");
    client.write_all(b"still here").await.unwrap();
    drop(client);
    assert_eq!(portreeve.output().await, "- 10 3 upstream TcpConnectionEnd");
}

#[tokio::test]
async fn a_host_that_does_not_read_stops_the_client() {
    const SIZE: usize = 64 << 20;
    let (release, gate) = watch::channel(false);
    let upstream = upstream::raw(move |mut stream, _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(all.len().to_string().as_bytes()).await.unwrap();
        }
    });
    let upstream = upstream.await;
    let (portreeve, address) = start(&upstream, "cluster: upstream").await;
    let (mut reader, mut writer) = client::connect(address).await.into_split();
    let send = tokio::spawn(async move {
        writer.write_all(&vec![7; SIZE]).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let paused = async { while portreeve.stat("tcp.x.downstream_flow_control_paused_reading_total").await == 0 {} };
    within("a pause", paused).await;
    let received = portreeve.stat("tcp.x.downstream_cx_rx_bytes_total").await;
    assert!(received < SIZE as u64 / 2, "{received} bytes were taken for a host that reads nothing");
    release.send(true).unwrap();
    let mut answer = String::new();
    within("the answer", reader.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, SIZE.to_string());
    send.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_connected_is_closed_with_the_reason() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for (fields, breakers, expected) in [
        ("cluster: upstream, max_connect_attempts: 3", "", "UF,URX 0 0 upstream"),
        ("cluster: upstream", ", circuit_breakers: { thresholds: [ { max_connections: 0 } ] }", "UO 0 0 upstream"),
        ("weighted_clusters: { clusters: [ { name: nowhere, weight: 1 } ] }", "", "NC 0 0 -"),
    ] {
        let config = Config::new().cluster_with("upstream", nobody, breakers);
        let mut portreeve = proxy(config, fields).start().await;
        let mut client = client::connect(portreeve.listener("tcp")).await;
        assert_eq!(read(&mut client).await, b"");
        assert_eq!(portreeve.output().await, format!("{expected} TcpConnectionEnd"));
        if fields.contains("attempts") {
            assert_eq!(portreeve.stat("cluster.upstream.upstream_cx_connect_fail").await, 3);
        }
    }
}

#[tokio::test]
async fn connections_end_when_nothing_moves_or_when_they_are_old() {
    let upstream = upstream::raw(|mut stream, _| async move {
        stream.write_all(b"hello").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let upstream = upstream.await;
    for (limit, flags, counter) in [
        ("idle_timeout: 0.1s", "-", "idle_timeout"),
        ("max_downstream_connection_duration: 0.1s", "DT", "max_downstream_connection_duration"),
    ] {
        let also = "access_log_options: { flush_access_log_on_start: true, flush_access_log_on_connected: true }";
        let (mut portreeve, address) = start(&upstream, &format!("cluster: upstream, {limit}, {also}")).await;
        let mut client = client::connect(address).await;
        assert_eq!(read(&mut client).await, b"hello");
        assert_eq!(read(&mut client).await, b"");
        assert_eq!(portreeve.output().await, "- 0 0 - TcpConnectionStart");
        assert_eq!(portreeve.output().await, "- 0 0 upstream TcpUpstreamConnected");
        assert_eq!(portreeve.output().await, format!("{flags} 0 5 upstream TcpConnectionEnd"));
        assert_eq!(portreeve.stat(&format!("tcp.x.{counter}")).await, 1);
    }
}

#[tokio::test]
async fn a_reset_goes_through_to_the_other_side() {
    let upstream = upstream::raw(|mut stream, _| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    });
    let upstream = upstream.await;
    let (mut portreeve, address) = start(&upstream, "cluster: upstream").await;
    let mut client = client::connect(address).await;
    client.write_u8(1).await.unwrap();
    let error = within("the reset", client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(portreeve.output().await, "UR 1 0 upstream TcpConnectionEnd");
}

#[tokio::test]
async fn a_reload_leaves_connections_open() {
    let upstream = upstream::raw(|stream, _| async move {
        let (mut read, mut write) = stream.into_split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let upstream = upstream.await;
    let (mut portreeve, address) = start(&upstream, "cluster: upstream").await;
    let mut client = client::connect(address).await;
    client.write_all(b"before").await.unwrap();
    assert_eq!(read(&mut client).await, b"before");
    let (status, said) = portreeve.reload().await;
    assert!(status.success(), "{said}");
    client.write_all(b"after").await.unwrap();
    assert_eq!(read(&mut client).await, b"after");
}
