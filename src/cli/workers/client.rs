//! A client of the registration API, over TLS, plain TCP or a Unix socket.
//!
//! TLS is that of upstream clusters: the same verification, the same error messages.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower_service::Service;

use crate::{
    config::{Field, Report},
    net::{Alpn, Io},
    proto::{core, registration::worker_registry_client::WorkerRegistryClient, tls as wire},
    stats,
    tls::{Secrets, UpstreamTls},
};

/// The time for a connection, and for a call that does not wait for anything.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client that says who it is.
pub type Client = WorkerRegistryClient<InterceptedService<Channel, Token>>;

/// Where the API is, and who calls.
#[derive(Clone, Debug, clap::Args)]
pub struct Server {
    /// Where the API is: https://HOST:PORT, http://HOST:PORT or unix:PATH
    #[arg(
        long,
        global = true,
        env = "PORTREEVE_ADDRESS",
        default_value = "https://127.0.0.1:8443",
        value_name = "URL"
    )]
    pub address: String,
    /// A file with the caller's token; otherwise the environment variable PORTREEVE_TOKEN, otherwise none
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The certificate authorities of the ingress, as PEM; otherwise those of this system
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl Server {
    /// A connected client.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let token = self.token()?;
        let (target, name) = self.target()?;
        let secure = self.address.starts_with("https://");
        let tls = if secure { Some(Arc::new(upstream_tls(self.ca.as_deref())?)) } else { None };
        let origin = match &target {
            Target::Tcp(..) => self.address.parse()?,
            Target::Unix(_) => Uri::from_static("http://localhost"),
        };
        // Only the origin reaches the server; tonic would refuse "https" in front of a connector of ours.
        let endpoint = Endpoint::from_static("http://localhost").origin(origin).connect_timeout(TIMEOUT);
        let connector = Connector { target, name, tls };
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.with_context(|| format!("cannot connect to {}", self.address))?;
        Ok(WorkerRegistryClient::with_interceptor(channel, Token(token)))
    }

    /// Where to connect, and the name to verify.
    fn target(&self) -> anyhow::Result<(Target, String)> {
        if let Some(path) = self.address.strip_prefix("unix:") {
            return Ok((Target::Unix(PathBuf::from(path)), String::new()));
        }
        let uri: Uri = self.address.parse().with_context(|| format!("--address {:?} is not a URL", self.address))?;
        let port = match uri.scheme_str() {
            Some("https") => 443,
            Some("http") => 80,
            _ => bail!("--address {:?} must begin with https://, http:// or unix:", self.address),
        };
        let Some(host) = uri.host() else { bail!("--address {:?} names no host", self.address) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok((Target::Tcp(host.clone(), uri.port_u16().unwrap_or(port)), host))
    }

    fn token(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        let token = match &self.token_file {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => std::env::var("PORTREEVE_TOKEN").unwrap_or_default(),
        };
        if token.trim().is_empty() {
            return Ok(None);
        }
        let mut value: MetadataValue<_> =
            format!("Bearer {}", token.trim()).parse().context("the token holds characters that no token has")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn upstream_tls(ca: Option<&Path>) -> anyhow::Result<UpstreamTls> {
    let file = |path: &Path| core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.display().to_string())),
        ..core::DataSource::default()
    };
    let system = ca.is_none().then(wire::certificate_validation_context::SystemRootCerts::default);
    let validation = wire::CertificateValidationContext {
        trusted_ca: ca.map(file),
        system_root_certs: system,
        ..wire::CertificateValidationContext::default()
    };
    let context = wire::UpstreamTlsContext {
        common_tls_context: Some(wire::CommonTlsContext {
            validation_context_type: Some(wire::common_tls_context::ValidationContextType::ValidationContext(
                validation,
            )),
            ..wire::CommonTlsContext::default()
        }),
        auto_host_sni: true,
        auto_sni_san_validation: true,
        ..wire::UpstreamTlsContext::default()
    };
    let report = Report::new();
    let scope = stats::Registry::new(0).scope("");
    let Some(tls) = UpstreamTls::from_proto(&context, Field::root(&report), &Secrets::default(), &scope) else {
        let problems: Vec<_> = report.into_problems().into_iter().map(|problem| problem.message).collect();
        bail!("--ca: {}", problems.join("; "));
    };
    Ok(tls)
}

/// Puts the token into every call.
#[derive(Clone, Debug)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

#[derive(Clone, Debug)]
enum Target {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// How tonic comes to a connection.
#[derive(Clone)]
struct Connector {
    target: Target,
    name: String,
    tls: Option<Arc<UpstreamTls>>,
}

impl Connector {
    async fn connect(self) -> anyhow::Result<TokioIo<Io>> {
        let io = match &self.target {
            Target::Tcp(host, port) => Io::tcp(TcpStream::connect((host.as_str(), *port)).await?)?,
            Target::Unix(path) => Io::unix(UnixStream::connect(path).await?)?,
        };
        let Some(tls) = self.tls else { return Ok(TokioIo::new(io)) };
        let (io, agreed) = tls.connect(io, &self.name, &[Alpn::H2]).await?;
        if agreed.protocol() != Some(Alpn::H2) {
            bail!("the server does not offer HTTP/2");
        }
        Ok(TokioIo::new(io))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = anyhow::Error;
    type Future = Pin<Box<dyn Future<Output = anyhow::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
