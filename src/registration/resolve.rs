//! Where a worker's addresses lead: DNS names resolved, and every address judged, also those behind a name.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::lookup_host, time::timeout};

use super::{
    refusal::Refusal,
    worker::{Worker, WorkerAddress},
};
use crate::{
    config::{Field, Report},
    http_filters::registration::Caller,
    net::Address,
};

/// The longest that one name may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// One address at which a worker can be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where to connect.
    pub address: Address,
    /// The name that led there, or the IP address as text; empty for a Unix socket.
    pub hostname: String,
}

/// Every address of `worker`, in its order. Refused if one cannot be found, or if `caller` may not use it.
pub async fn resolve(worker: &Worker, caller: &Caller) -> Result<Vec<Target>, Refusal> {
    let (invalid, forbidden) = (Report::new(), Report::new());
    let mut targets = Vec::with_capacity(worker.addresses.len());
    for (index, address) in worker.addresses.iter().enumerate() {
        match address {
            WorkerAddress::Socket(path) if caller.may_reach_socket(path) => {
                targets.push(Target { address: Address::Pipe(path.clone()), hostname: String::new() });
            }
            WorkerAddress::Socket(_) => {
                let reason = "is not at or below a directory that you may use (allowed_socket_directories)";
                report(&forbidden, index, "unix_socket", reason.to_owned());
            }
            WorkerAddress::Ip(ip, port) => match judge(SocketAddr::new(*ip, *port), caller) {
                Ok(address) => targets.push(Target { address, hostname: ip.to_string() }),
                Err(reason) => report(&forbidden, index, "host", reason),
            },
            WorkerAddress::Name(name, port) => match lookup(name, *port).await {
                Ok(found) => {
                    for address in found {
                        match judge(address, caller) {
                            Ok(address) => targets.push(Target { address, hostname: name.clone() }),
                            Err(reason) => report(&forbidden, index, "host", reason),
                        }
                    }
                }
                Err(reason) => report(&invalid, index, "host", reason),
            },
        }
    }
    Refusal::invalid(invalid)?;
    Refusal::forbidden(forbidden)?;
    Ok(targets)
}

/// Whether resolving again may lead elsewhere.
pub fn has_names(worker: &Worker) -> bool {
    worker.addresses.iter().any(|address| matches!(address, WorkerAddress::Name(..)))
}

fn judge(address: SocketAddr, caller: &Caller) -> Result<Address, String> {
    if caller.may_reach(address.ip()) {
        return Ok(Address::from(address));
    }
    Err(format!("{} is not in a network that you may use (allowed_networks)", address.ip().to_canonical()))
}

async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match timeout(LOOKUP, lookup_host((name, port))).await {
        Ok(Ok(found)) => {
            let mut found: Vec<_> = found.collect();
            found.sort_unstable();
            found.dedup();
            Ok(found)
        }
        Ok(Err(error)) => Err(format!("cannot be resolved: {error}")),
        Err(_) => Err(format!("cannot be resolved within {} s", LOOKUP.as_secs())),
    }
}

fn report(report: &Report, index: usize, name: &'static str, reason: String) {
    Field::root(report).key("addresses").index(index).key(name).error(reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::registration as wire;

    async fn resolved(addresses: &[wire::Address]) -> Result<Vec<Target>, Refusal> {
        let request = wire::RegisterRequest {
            worker_id: "a".to_owned(),
            service: "s".to_owned(),
            addresses: addresses.to_vec(),
            ..wire::RegisterRequest::default()
        };
        let worker = Worker::from_proto(&request, Field::root(&Report::new())).unwrap();
        resolve(&worker, &Caller::for_tests("x")).await
    }

    fn host(host: &str) -> wire::Address {
        wire::Address { host: host.to_owned(), port: 80, ..wire::Address::default() }
    }

    #[tokio::test]
    async fn addresses_are_judged_also_behind_names() {
        let socket = wire::Address { unix_socket: "/run/docker.sock".to_owned(), ..wire::Address::default() };
        let refused =
            resolved(&[host("10.0.0.1"), host("localhost"), host("169.254.169.254"), socket]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        let message = refused.to_string();
        assert!(message.starts_with("addresses[1].host: "), "{message}");
        assert!(
            message.contains("addresses[2].host: 169.254.169.254 is not in a network that you may use"),
            "{message}"
        );
        assert!(message.contains("addresses[3].unix_socket: is not at or below a directory"), "{message}");
    }

    #[tokio::test]
    async fn names_that_lead_nowhere_are_told() {
        let refused = resolved(&[host("no-such-host.invalid")]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.to_string().starts_with("addresses[0].host: cannot be resolved"), "{refused}");
    }

    #[tokio::test]
    async fn addresses_stay_in_order() {
        let found = resolved(&[host("10.0.0.2"), host("10.0.0.1")]).await.unwrap();
        let found: Vec<_> = found.iter().map(|target| target.address.to_string()).collect();
        assert_eq!(found, ["10.0.0.2:80", "10.0.0.1:80"]);
    }
}
