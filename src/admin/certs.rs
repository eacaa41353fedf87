//! `/certs`: the certificates in use, and when they end.

use std::time::{Duration, SystemTime};

use super::{
    endpoint::Answer,
    json::{self, Defaults},
};
use crate::{
    proto::{
        self,
        admin::{Certificate, CertificateDetails, Certificates, SubjectAlternateName, subject_alternate_name::Name},
    },
    snapshot::Snapshot,
    tls::LoadedCertificate,
};

/// Answers `/certs`: for every TLS configuration its authorities and its own certificates.
pub(super) fn respond(snapshot: &Snapshot) -> Answer {
    let now = SystemTime::now();
    let chains = snapshot.listeners.values().flat_map(|listener| listener.filter_chains.all());
    let downstream = chains.filter_map(|chain| chain.tls.as_ref());
    let mut certificates: Vec<_> =
        downstream.map(|tls| certificate(tls.authorities(), tls.certificates(), now)).collect();
    let mut names: Vec<_> = snapshot.clusters.keys().collect();
    names.sort_unstable();
    for tls in names.into_iter().filter_map(|name| snapshot.clusters[name].cluster.tls.as_ref()) {
        certificates.push(certificate(tls.authorities(), tls.certificate(), now));
    }
    json::answer(&Certificates { certificates }, Defaults::Print)
}

fn certificate<'a>(
    authorities: &[LoadedCertificate],
    own: impl IntoIterator<Item = &'a LoadedCertificate>,
    now: SystemTime,
) -> Certificate {
    Certificate {
        ca_cert: authorities.iter().map(|loaded| details(loaded, now)).collect(),
        cert_chain: own.into_iter().map(|loaded| details(loaded, now)).collect(),
    }
}

fn details(LoadedCertificate { path, facts }: &LoadedCertificate, now: SystemTime) -> CertificateDetails {
    let dns = facts.dns_sans.iter().cloned().map(Name::Dns);
    let uris = facts.uri_sans.iter().cloned().map(Name::Uri);
    let addresses = facts.ip_sans.iter().map(|address| Name::IpAddress(address.to_string()));
    let name = |name| SubjectAlternateName { name: Some(name) };
    let left = facts.not_after.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
    CertificateDetails {
        path: path.clone(),
        serial_number: facts.serial.clone(),
        subject_alt_names: dns.chain(uris).chain(addresses).map(name).collect(),
        days_until_expiration: left.as_secs() / DAY.as_secs(),
        valid_from: facts.not_before.map(proto::timestamp),
        expiration_time: facts.not_after.map(proto::timestamp),
        ..CertificateDetails::default()
    }
}

const DAY: Duration = Duration::from_hours(24);
