//! The sample workers: servers for gRPC, web and WebSocket on one loopback port each, and what keeps one of them registered.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::Context;
use http_body_util::BodyExt;
use tokio::{
    net::TcpStream,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};
use tower_service::Service;

use super::{echo::EchoService, guide::Guide, page, websocket};
use crate::{
    cli::workers::{Client, Server},
    filter::service::{SendBody, hand_over},
    http::{Request, Response, body::Body, body::BodyError, grpc, http1, http2, upgrade::Upgrade},
    proto::{
        self, SERVICE_DESCRIPTORS,
        demo::echo_server::EchoServer,
        registration::{Address, HeaderMatch, RegisterRequest, RenewRequest, Route, route::Match},
    },
};

/// The worker that registers itself.
pub const FIRST: &str = "sample";

/// The worker that waits to be registered.
pub const SECOND: &str = "second";

/// The lease of the first worker, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How long to wait before trying again what failed.
const RETRY: Duration = Duration::from_millis(50);

/// How long the ingress may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of one gRPC request.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// The ports of both workers.
#[derive(Debug)]
pub struct Sample {
    first: TcpListener,
    second: TcpListener,
}

/// Takes two ports that are free.
pub fn bind() -> anyhow::Result<Sample> {
    let listen = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        anyhow::Ok(listener)
    };
    Ok(Sample { first: listen()?, second: listen()? })
}

impl Sample {
    /// Where the worker listens that waits to be registered.
    pub fn second(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.second.local_addr()?)
    }
}

/// Runs both workers, keeps the first registered with `ingress`, and prints the guide when it is. Ends with the process.
pub fn run(sample: Sample, ingress: &Server, guide: &Guide) {
    let work = async {
        let address = sample.first.local_addr()?;
        spawn_local(accept(tokio::net::TcpListener::from_std(sample.first)?, FIRST));
        spawn_local(accept(tokio::net::TcpListener::from_std(sample.second)?, SECOND));
        stay_registered(address, ingress, guide).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start");
    if let Err(error) = runtime.and_then(|runtime| LocalSet::new().block_on(&runtime, work)) {
        tracing::error!("the sample worker has ended: {error:#}");
    }
}

async fn accept(listener: tokio::net::TcpListener, worker: &'static str) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(serve(stream, worker))),
            Err(error) => {
                tracing::warn!(%error, "the sample worker cannot accept a connection");
                sleep(RETRY).await;
            }
        }
    }
}

/// One connection, of HTTP/2 if it begins as one.
async fn serve(stream: TcpStream, worker: &'static str) {
    // In a conversation no message waits for the acknowledgement of the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut preface = [0; 3];
    let http2 = loop {
        match stream.peek(&mut preface).await {
            Ok(3) => break preface == *b"PRI",
            Ok(1 | 2) => sleep(RETRY).await,
            Ok(_) | Err(_) => return,
        }
    };
    let service = move |request| answer(request, worker);
    // How a connection ended is no concern of a sample.
    if http2 {
        let options = http2::Options::default();
        let _ =
            http2::serve(stream, (&options, 60 * 1024), &http2::Watch::uncounted(), service, std::future::pending())
                .await;
    } else {
        let options = http1::Options::default();
        let _ = http1::serve(stream, &options, &service, std::future::pending()).await;
    }
}

async fn answer(request: Request, worker: &'static str) -> Response {
    let websocket = request.extensions().get::<Upgrade>().is_some_and(|upgrade| upgrade.0 == "websocket");
    if websocket {
        websocket::accept(request)
    } else if grpc::is_grpc(request.headers()) {
        answer_grpc(request, worker).await
    } else {
        page::answer(worker, &request)
    }
}

async fn answer_grpc(request: Request, worker: &'static str) -> Response {
    let (parts, body) = request.into_parts();
    let (body, feed) = hand_over(body, MAX_REQUEST_BYTES);
    spawn_local(feed);
    let request: http::Request<SendBody> = http::Request::from_parts(parts, body);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(SERVICE_DESCRIPTORS)
        .with_service_name("portreeve.demo.v1.Echo");
    let path = request.uri().path();
    let answered = if path.starts_with("/grpc.reflection.v1.") {
        reflection.build_v1().expect("invariant: build.rs wrote these descriptors").call(request).await
    } else if path.starts_with("/grpc.reflection.v1alpha.") {
        reflection.build_v1alpha().expect("invariant: build.rs wrote these descriptors").call(request).await
    } else {
        EchoServer::new(EchoService { worker }).call(request).await
    };
    match answered {
        Ok(response) => {
            response.map(|body| Body::boxed(body.map_err(|status| BodyError::Protocol(status.to_string()))))
        }
        Err(never) => match never {},
    }
}

async fn stay_registered(address: SocketAddr, ingress: &Server, guide: &Guide) -> anyhow::Result<()> {
    let mut client = connect(ingress).await?;
    let mut printed = false;
    loop {
        client.register(registration(address)).await.context("cannot register")?;
        if !printed {
            guide.print()?;
            printed = true;
        }
        loop {
            sleep(RENEW_EVERY).await;
            let renewal = RenewRequest { worker_ids: vec![FIRST.to_owned()], lease_time: None };
            match client.renew(renewal).await {
                Ok(_) => {}
                // As when somebody removed it to see what happens.
                Err(status) if status.code() == tonic::Code::NotFound => break,
                Err(status) => return Err(status).context("cannot renew"),
            }
        }
    }
}

/// A connection to the ingress, which may still be starting.
async fn connect(ingress: &Server) -> anyhow::Result<Client> {
    let limit = Instant::now() + PATIENCE;
    loop {
        match ingress.connect().await {
            Err(_) if Instant::now() < limit => sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

fn registration(address: SocketAddr) -> RegisterRequest {
    let header = HeaderMatch { name: "envoy-prefix".to_owned(), value: FIRST.to_owned() };
    let matches = [Match::PathPrefix(format!("/worker/{FIRST}/")), Match::Header(header)];
    RegisterRequest {
        worker_id: FIRST.to_owned(),
        service: FIRST.to_owned(),
        addresses: vec![Address {
            host: address.ip().to_string(),
            port: address.port().into(),
            unix_socket: String::new(),
        }],
        routes: matches.map(|matches| Route { r#match: Some(matches), prefix_rewrite: None }).into(),
        lease_time: Some(proto::duration(LEASE)),
        ..RegisterRequest::default()
    }
}
