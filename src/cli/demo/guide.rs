//! What a demo prints: lines to try, each of which works as it stands.

use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};

use super::{
    files::Files,
    sample::{FIRST, SECOND, Sample},
};

/// What stands in the lines.
#[derive(Debug)]
pub struct Guide {
    directory: PathBuf,
    program: PathBuf,
    port: u16,
    admin_port: u16,
    second: SocketAddr,
}

impl Guide {
    /// The guide to this demo.
    pub fn new(files: &Files, port: u16, admin_port: u16, sample: &Sample) -> anyhow::Result<Guide> {
        Ok(Guide {
            directory: files.directory().to_owned(),
            program: env::current_exe()?,
            port,
            admin_port,
            second: sample.second()?,
        })
    }

    /// Prints it.
    pub fn print(&self) -> io::Result<()> {
        io::stdout().lock().write_all(self.text().as_bytes())
    }

    fn text(&self) -> String {
        let Guide { port, admin_port, second, .. } = self;
        let (directory, program) = (self.directory.display(), self.program.display());
        let ingress = format!("127.0.0.1:{port}");
        let ca = format!("{directory}/ca.pem");
        let curl = format!("curl --cacert {ca}");
        let grpcurl = format!("grpcurl -cacert {ca}");
        let token = format!("-H \"authorization: Bearer $(cat {directory}/token)\"");
        let workers = format!("--address https://{ingress} --ca {ca} --token-file {directory}/token");
        let grpc = "-H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- -o - -D -";
        let second_worker = format!(
            r#"{{"worker_id":"{SECOND}","service":"sample","addresses":[{{"host":"{}","port":{}}}],"routes":[{{"path_prefix":"/worker/{SECOND}/"}},{{"header":{{"name":"envoy-prefix","value":"{SECOND}"}}}}],"lease_time":"30s"}}"#,
            second.ip(),
            second.port(),
        );
        format!(
            r#"
Portreeve serves https://{ingress}, and its admin interface at http://127.0.0.1:{admin_port}. The certificate authority (ca.pem) and
the token of the caller "demo" (token) are in {directory}.
The worker "{FIRST}" has registered itself. In another terminal, try:

  A web page, over HTTP/1.1 and HTTP/2
    {curl} --http1.1 https://{ingress}/worker/{FIRST}/hello
    {curl} --http2 https://{ingress}/worker/{FIRST}/hello

  The same in a browser, with a WebSocket to type into (it warns until you trust the authority)
    https://{ingress}/worker/{FIRST}/

  A WebSocket that says back "hello": look for it after the headers
    printf 'GET /worker/{FIRST}/echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cG9ydHJlZXZlIGRlbW8hIQ==\r\n\r\n\201\205\0\0\0\0hello\210\200\0\0\0\0' | openssl s_client -quiet -verify_quiet -servername localhost -CAfile {ca} -connect {ingress} | cat -v

  gRPC with the worker chosen by the header envoy-prefix: one call, and a conversation
    {grpcurl} -H 'envoy-prefix: {FIRST}' -d '{{"text":"hello"}}' {ingress} portreeve.demo.v1.Echo/Say
    {grpcurl} -H 'envoy-prefix: {FIRST}' -d '{{"text":"one"}} {{"text":"two"}}' {ingress} portreeve.demo.v1.Echo/Chat

  gRPC with the worker chosen by a path prefix, which grpcurl cannot send, message by message
    printf '\0\0\0\0\7\12\5hello' | {curl} -s {grpc} https://{ingress}/worker/{FIRST}/portreeve.demo.v1.Echo/Say | cat -v
    (printf '\0\0\0\0\5\12\3one'; sleep 1; printf '\0\0\0\0\5\12\3two') | {curl} -s -N -X POST -T - {chat} https://{ingress}/worker/{FIRST}/portreeve.demo.v1.Echo/Chat | cat -v

  A second worker, already listening, registered for 30 seconds: reached by the next request, answered 503 when its lease has ended
    {grpcurl} {token} -d '{second_worker}' {ingress} portreeve.registration.v1.WorkerRegistry/Register
    {curl} -i https://{ingress}/worker/{SECOND}/hello

  What is registered, and what the ingress knows
    {program} workers list {workers}
    curl http://127.0.0.1:{admin_port}/clusters

Registrations and requests appear below. Ctrl-C ends the demo.

"#,
            chat = grpc.replace("--data-binary @- ", ""),
        )
    }
}
