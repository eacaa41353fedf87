//! `x-forwarded-client-cert`: what the next hop is told of the client's certificate (`forward_client_cert_details`).
//!
//! The text is made once for each connection, and only where the configuration asks for it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{Downstream, X_FORWARDED_CLIENT_CERT};
use crate::stream_info::{ChainCertificate, PeerCertificate, TlsInfo, url_encoded};

/// The settings for `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCertRules {
    /// `forward_client_cert_details`
    pub forwarding: Forwarding,
    /// `set_current_client_cert_details`
    pub details: CertDetails,
}

/// `forward_client_cert_details`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Forwarding {
    /// Remove the header.
    #[default]
    Sanitize,
    /// Pass it on from clients with a verified certificate.
    ForwardOnly,
    /// Append the client's certificate, if it has a verified one; else remove the header.
    AppendForward,
    /// Replace it by the client's certificate, or remove it.
    SanitizeSet,
    /// Pass it on from anybody.
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`: what is told besides the certificate's hash.
#[allow(clippy::struct_excessive_bools, reason = "one for each setting of Envoy's that is one")]
#[derive(Clone, Copy, Debug, Default)]
pub struct CertDetails {
    /// The certificate itself.
    pub cert: bool,
    /// With those that certify it.
    pub chain: bool,
    /// Its subject.
    pub subject: bool,
    /// Who certifies it.
    pub issuer: bool,
    /// Its alternative names that are URIs.
    pub uri: bool,
    /// Its alternative names that are DNS names.
    pub dns: bool,
    /// How this is written.
    pub format: CertFormat,
}

/// `format`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CertFormat {
    /// `Key=value;Key=value`
    #[default]
    Text,
    /// An object for each certificate.
    Json,
}

/// What is told of the client of one connection.
#[derive(Clone, Debug)]
pub struct ClientCert {
    text: HeaderValue,
    json: HeaderValue,
}

impl ClientCertRules {
    /// `None` if nothing is to be told, or the client has no certificate that was verified.
    pub(super) fn describe(self, tls: &TlsInfo) -> Option<ClientCert> {
        let peer = tls.peer.as_deref()?;
        let (text, json) = match self.forwarding {
            Forwarding::AppendForward | Forwarding::SanitizeSet => {
                (self.details.text(tls, peer), self.details.json(tls, peer))
            }
            // That there is a certificate is all that counts.
            Forwarding::ForwardOnly => (String::new(), String::new()),
            Forwarding::Sanitize | Forwarding::AlwaysForwardOnly => return None,
        };
        Some(ClientCert { text: HeaderValue::try_from(text).ok()?, json: HeaderValue::try_from(json).ok()? })
    }
}

impl CertDetails {
    fn text(self, tls: &TlsInfo, peer: &PeerCertificate) -> String {
        let mut parts: Vec<String> = local_uris(tls).iter().map(|uri| format!("By={uri}")).collect();
        parts.push(format!("Hash={}", peer.fingerprint_256));
        if self.cert {
            parts.push(format!("Cert=\"{}\"", url_encoded(&pem(tls.peer_chain.iter().take(1)))));
        }
        if self.chain {
            parts.push(format!("Chain=\"{}\"", url_encoded(&pem(tls.peer_chain.iter()))));
        }
        if self.subject {
            parts.push(format!("Subject=\"{}\"", peer.subject));
        }
        if self.uri {
            // The key is there even if the certificate has none.
            let uris = if peer.uri_sans.is_empty() { &[String::new()] } else { &peer.uri_sans[..] };
            parts.extend(uris.iter().map(|uri| format!("URI={uri}")));
        }
        if self.dns {
            parts.extend(peer.dns_sans.iter().map(|name| format!("DNS={name}")));
        }
        if self.issuer {
            parts.push(format!("Issuer=\"{}\"", peer.issuer));
        }
        parts.join(";")
    }

    fn json(self, tls: &TlsInfo, peer: &PeerCertificate) -> String {
        let mut object = serde_json::Map::new();
        let local_uris = local_uris(tls);
        if !local_uris.is_empty() {
            object.insert("by".to_owned(), local_uris.to_vec().into());
        }
        object.insert("hash".to_owned(), peer.fingerprint_256.clone().into());
        if self.cert {
            object.insert("cert".to_owned(), pem(tls.peer_chain.iter().take(1)).into());
        }
        if self.chain {
            object.insert("chain".to_owned(), pem(tls.peer_chain.iter()).into());
        }
        if self.subject {
            object.insert("subject".to_owned(), peer.subject.clone().into());
        }
        if self.uri && !peer.uri_sans.is_empty() {
            object.insert("uri".to_owned(), peer.uri_sans.clone().into());
        }
        if self.dns && !peer.dns_sans.is_empty() {
            object.insert("dns".to_owned(), peer.dns_sans.clone().into());
        }
        if self.issuer {
            object.insert("issuer".to_owned(), peer.issuer.clone().into());
        }
        serde_json::Value::from(vec![serde_json::Value::from(object)]).to_string()
    }
}

/// What our own certificate says of us.
fn local_uris(tls: &TlsInfo) -> &[String] {
    tls.local.as_ref().map_or(&[], |own| &own.uri_sans)
}

/// Certificates in PEM form, one after the other.
fn pem<'a>(chain: impl Iterator<Item = &'a ChainCertificate>) -> String {
    chain.map(ChainCertificate::pem).collect()
}

/// Does with a request's header what the rules say.
pub(super) fn forward(headers: &mut HeaderMap, rules: ClientCertRules, downstream: &Downstream) {
    let current = match (rules.forwarding, &downstream.client_cert) {
        (Forwarding::AlwaysForwardOnly, _) | (Forwarding::ForwardOnly, Some(_)) => return,
        (Forwarding::Sanitize | Forwarding::ForwardOnly, _) | (_, None) => {
            headers.remove(X_FORWARDED_CLIENT_CERT);
            return;
        }
        (Forwarding::AppendForward | Forwarding::SanitizeSet, Some(current)) => current,
    };
    let mut came = Vec::new();
    if rules.forwarding == Forwarding::AppendForward {
        came = headers
            .get_all(X_FORWARDED_CLIENT_CERT)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
            .join(&b","[..]);
    }
    // Others may have begun in the other format, and are gone on with.
    let value = match (rules.details.format, came.as_slice()) {
        (CertFormat::Text, []) => current.text.clone(),
        (CertFormat::Json, []) => current.json.clone(),
        (_, [b'[', members @ .., b']']) => {
            let own = &current.json.as_bytes()[1..];
            let separator: &[u8] = if members.trim_ascii().is_empty() { b"" } else { b"," };
            joined(&[b"[", members, separator, own])
        }
        (_, others) => joined(&[others, b",", current.text.as_bytes()]),
    };
    headers.insert(X_FORWARDED_CLIENT_CERT, value);
}

fn joined(parts: &[&[u8]]) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(parts.concat())).expect("invariant: made of header values")
}
