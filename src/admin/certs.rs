//! `/certs`: the certificates in use, and when they end.

use std::time::{Duration, SystemTime};

use super::{
    endpoint::Answer,
    json::{self, Defaults},
};
use crate::{
    proto::{
        self,
        admin::{
            Certificate, CertificateDetails, Certificates, SubjectAlternateName, certificate_details::OcspDetails,
            subject_alternate_name::Name,
        },
    },
    snapshot::Snapshot,
    tls::{DownstreamTls, LoadedCertificate, UpstreamTls},
};

/// Answers `/certs`: for every TLS configuration its authorities and its own certificates.
pub(super) fn respond(snapshot: &Snapshot) -> Answer {
    let now = SystemTime::now();
    let downstream = downstream(snapshot).map(|tls| certificate(tls.authorities(), tls.certificates(), now));
    let upstream = upstream(snapshot).map(|tls| certificate(tls.authorities(), tls.certificate(), now));
    json::answer(&Certificates { certificates: downstream.chain(upstream).collect() }, Defaults::Print)
}

/// When the first of all certificates and authorities in use ends.
#[must_use]
pub fn first_certificate_end(snapshot: &Snapshot) -> Option<SystemTime> {
    let downstream = downstream(snapshot).flat_map(|tls| tls.certificates().chain(tls.authorities()));
    let upstream = upstream(snapshot).flat_map(|tls| tls.certificate().into_iter().chain(tls.authorities()));
    downstream.chain(upstream).filter_map(|loaded| loaded.facts.not_after).min()
}

fn downstream(snapshot: &Snapshot) -> impl Iterator<Item = &DownstreamTls> {
    let chains = snapshot.listeners.values().flat_map(|listener| listener.filter_chains.all());
    chains.filter_map(|chain| chain.tls())
}

/// In the order of the clusters' names.
fn upstream(snapshot: &Snapshot) -> impl Iterator<Item = &UpstreamTls> {
    let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
    clusters.sort_unstable_by_key(|(name, _)| *name);
    clusters.into_iter().flat_map(|(_, entry)| entry.transport_sockets.tls()).map(|tls| &**tls)
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

fn details(LoadedCertificate { path, facts, ocsp }: &LoadedCertificate, now: SystemTime) -> CertificateDetails {
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
        ocsp_details: ocsp.map(|(valid_from, expiration)| OcspDetails {
            valid_from: Some(proto::timestamp(valid_from)),
            expiration: expiration.map(proto::timestamp),
        }),
    }
}

const DAY: Duration = Duration::from_hours(24);
