//! The options of `portreeve workers register`, and the request that they make.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::ValueEnum;

use super::duration;
use crate::proto::{
    self,
    registration::{Address, HeaderMatch, Protocol, RegisterRequest, Route, UpstreamTls, route::Match},
};

/// What to register.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The worker's id
    #[arg(value_name = "ID")]
    worker_id: String,
    /// The cluster that it joins or founds
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Where it listens: HOST:PORT or unix:PATH; may be repeated
    #[arg(long = "to", required = true, value_parser = address, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// How to speak to it
    #[arg(long, value_enum, default_value_t = Speaks::Auto)]
    protocol: Speaks,
    /// A path prefix whose requests it gets, and what replaces that (the default is /); may be repeated
    #[arg(long = "path", value_parser = path, value_name = "PREFIX[=REWRITE]")]
    paths: Vec<Route>,
    /// A header by whose value requests select it; may be repeated
    #[arg(long = "header", value_parser = header, value_name = "NAME=VALUE")]
    headers: Vec<Route>,
    /// Its share of the requests against other workers of the service
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// Something to remember with it; may be repeated
    #[arg(long = "metadata", value_parser = pair, value_name = "KEY=VALUE")]
    metadata: Vec<(String, String)>,
    /// How long the registration stands without renewal, such as 30s or 1h; the default is the server's
    #[arg(long, value_parser = duration, value_name = "TIME")]
    lease: Option<Duration>,
    /// Speak TLS to it; its certificate is verified
    #[arg(long)]
    tls: bool,
    /// The certificate authorities of its certificate, as PEM; the default is those of the ingress's system
    #[arg(long, requires = "tls", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The server name to ask for; the default is the host of the address
    #[arg(long, requires = "tls", value_name = "NAME")]
    tls_sni: Option<String>,
    /// A name of which its certificate must carry one; may be repeated
    #[arg(long, requires = "tls", value_name = "NAME")]
    tls_san: Vec<String>,
    /// Take the TLS settings of this cluster of the configuration
    #[arg(long, requires = "tls", conflicts_with_all = ["tls_ca", "tls_sni", "tls_san"], value_name = "CLUSTER")]
    tls_as_cluster: Option<String>,
}

/// `portreeve.registration.v1.Protocol`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Speaks {
    /// What ALPN chooses; in plain text, that of each request
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2 over TLS
    H2,
    /// HTTP/2 in plain text
    H2c,
}

impl Args {
    /// The request.
    pub fn request(self) -> anyhow::Result<RegisterRequest> {
        let ca_certificates = match &self.tls_ca {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => String::new(),
        };
        let tls = self.tls.then(|| UpstreamTls {
            ca_certificates,
            sni: self.tls_sni.unwrap_or_default(),
            subject_alt_names: self.tls_san,
            as_cluster: self.tls_as_cluster.unwrap_or_default(),
        });
        let protocol = match self.protocol {
            Speaks::Auto => Protocol::Auto,
            Speaks::Http1 => Protocol::Http1,
            Speaks::H2 => Protocol::H2,
            Speaks::H2c => Protocol::H2c,
        };
        Ok(RegisterRequest {
            worker_id: self.worker_id,
            service: self.service,
            addresses: self.addresses,
            protocol: protocol.into(),
            tls,
            routes: self.paths.into_iter().chain(self.headers).collect(),
            weight: self.weight,
            metadata: self.metadata.into_iter().collect(),
            lease_time: self.lease.map(proto::duration),
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address { unix_socket: path.to_owned(), ..Address::default() });
    }
    let (host, port) = text.rsplit_once(':').ok_or("must be HOST:PORT or unix:PATH")?;
    let port = port.parse::<u16>().map_err(|_| "must end with a port, 1 to 65535")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Address { host, port: port.into(), ..Address::default() })
}

fn path(text: &str) -> Result<Route, String> {
    let (prefix, rewrite) = match text.split_once('=') {
        Some((prefix, rewrite)) => (prefix, Some(rewrite.to_owned())),
        None => (text, None),
    };
    Ok(Route { r#match: Some(Match::PathPrefix(prefix.to_owned())), prefix_rewrite: rewrite })
}

fn header(text: &str) -> Result<Route, String> {
    let (name, value) = pair(text)?;
    Ok(Route { r#match: Some(Match::Header(HeaderMatch { name, value })), prefix_rewrite: None })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must hold a =")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |host: &str, port| Ok(Address { host: host.to_owned(), port, ..Address::default() });
        assert_eq!(address("worker.example:80"), of("worker.example", 80));
        assert_eq!(address("[::1]:80"), of("::1", 80));
        assert_eq!(address("unix:/run/w").unwrap().unix_socket, "/run/w");
        assert!(address("worker.example").is_err());
        assert!(address("worker.example:http").is_err());
    }

    #[test]
    fn paths_may_be_rewritten() {
        assert_eq!(path("/a").unwrap().prefix_rewrite, None);
        assert_eq!(path("/a=/b").unwrap().prefix_rewrite.as_deref(), Some("/b"));
    }
}
