//! Secrets by name: `static_resources.secrets`, which TLS contexts refer to; and the process's own session ticket keys.

use std::{collections::HashMap, sync::Arc};

use prost::Message;

use crate::{
    config::{data_source, field::Field},
    proto::tls::{CertificateValidationContext, SdsSecretConfig, Secret, TlsSessionTicketKeys, secret},
};

use super::{certificate::Certificate, ticket::TicketKey, ticket_keys::TicketKeys, validation::Validation};

/// The static secrets of a bootstrap, and the ticket keys of contexts that configure none.
#[derive(Debug, Default)]
pub struct Secrets {
    by_name: HashMap<String, Loaded>,
    own_ticket_keys: Arc<TicketKeys>,
}

#[derive(Debug)]
enum Loaded {
    Certificate(Arc<Certificate>),
    Validation {
        proto: Box<CertificateValidationContext>,
        validation: Arc<Validation>,
    },
    TicketKeys(Vec<Arc<TicketKey>>),
    Generic,
    /// There is such a secret, and what is wrong with it has been said.
    Broken,
}

impl Secrets {
    /// Reads and checks every secret, also those that nothing refers to.
    #[must_use]
    pub fn from_proto(secrets: &[Secret], field: Field<'_>) -> Secrets {
        let mut by_name = HashMap::with_capacity(secrets.len());
        for (index, Secret { name, r#type }) in secrets.iter().enumerate() {
            let field = field.index(index);
            let loaded = load(r#type.as_ref(), field).unwrap_or(Loaded::Broken);
            if by_name.insert(name.clone(), loaded).is_some() {
                field.key("name").error(format!("another secret is named {name:?}, too"));
            }
        }
        Secrets { by_name, own_ticket_keys: Arc::default() }
    }

    /// With the ticket keys of the process; else there are some for these contexts alone.
    #[must_use]
    pub fn with_ticket_keys(self, keys: &Arc<TicketKeys>) -> Secrets {
        Secrets { own_ticket_keys: Arc::clone(keys), ..self }
    }

    pub(super) fn own_ticket_keys(&self) -> Arc<TicketKeys> {
        Arc::clone(&self.own_ticket_keys)
    }

    pub(super) fn certificate(&self, reference: &SdsSecretConfig, field: Field<'_>) -> Option<Arc<Certificate>> {
        match self.find(reference, field)? {
            Loaded::Certificate(certificate) => Some(Arc::clone(certificate)),
            other => other.is_not("a TLS certificate", field),
        }
    }

    pub(super) fn validation(&self, reference: &SdsSecretConfig, field: Field<'_>) -> Option<Arc<Validation>> {
        match self.find(reference, field)? {
            Loaded::Validation { validation, .. } => Some(Arc::clone(validation)),
            other => other.is_not("a validation context", field),
        }
    }

    /// A validation context with what the secret adds to it.
    pub(super) fn combined_validation(
        &self,
        default: &CertificateValidationContext,
        reference: &SdsSecretConfig,
        field: Field<'_>,
    ) -> Option<Arc<Validation>> {
        let reference_field = field.key("validation_context_sds_secret_config");
        let secret = match self.find(reference, reference_field)? {
            Loaded::Validation { proto, .. } => proto,
            other => return other.is_not("a validation context", reference_field),
        };
        let mut combined = default.clone();
        combined.merge(secret.encode_to_vec().as_slice()).expect("invariant: it was encoded just now");
        Validation::from_proto(&combined, field.key("default_validation_context"))
    }

    pub(super) fn ticket_keys(&self, reference: &SdsSecretConfig, field: Field<'_>) -> Option<Vec<Arc<TicketKey>>> {
        match self.find(reference, field)? {
            Loaded::TicketKeys(keys) => Some(keys.clone()),
            other => other.is_not("a set of session ticket keys", field),
        }
    }

    fn find(&self, reference: &SdsSecretConfig, field: Field<'_>) -> Option<&Loaded> {
        let SdsSecretConfig { name, sds_config } = reference;
        if sds_config.is_some() {
            field.unsupported("sds_config", sds_config);
            return None;
        }
        let found = self.by_name.get(name);
        if found.is_none() {
            field.key("name").error(format!("there is no {name:?} in static_resources.secrets"));
        }
        found
    }
}

impl Loaded {
    fn is_not<T>(&self, kind: &str, field: Field<'_>) -> Option<T> {
        if !matches!(self, Loaded::Broken) {
            field.key("name").error(format!("this secret is not {kind}"));
        }
        None
    }
}

fn load(secret: Option<&secret::Type>, field: Field<'_>) -> Option<Loaded> {
    match secret {
        Some(secret::Type::TlsCertificate(proto)) => {
            Certificate::from_proto(proto, field.key("tls_certificate")).map(Loaded::Certificate)
        }
        Some(secret::Type::ValidationContext(proto)) => {
            let validation = Validation::from_proto(proto, field.key("validation_context"))?;
            Some(Loaded::Validation { proto: Box::new(proto.clone()), validation })
        }
        Some(secret::Type::SessionTicketKeys(proto)) => {
            ticket_keys(proto, field.key("session_ticket_keys")).map(Loaded::TicketKeys)
        }
        Some(secret::Type::GenericSecret(_)) => Some(Loaded::Generic),
        None => {
            field.error("one of tls_certificate, validation_context, session_ticket_keys, generic_secret is required");
            None
        }
    }
}

/// Session ticket keys that several processes share.
pub(super) fn ticket_keys(proto: &TlsSessionTicketKeys, field: Field<'_>) -> Option<Vec<Arc<TicketKey>>> {
    let TlsSessionTicketKeys { keys } = proto;
    let field = field.key("keys");
    let mut loaded = Vec::with_capacity(keys.len());
    for (index, source) in keys.iter().enumerate() {
        let field = field.index(index);
        let Some(bytes) = data_source::read(source, field) else { continue };
        match TicketKey::from_bytes(&bytes) {
            Some(key) => loaded.push(key),
            None => field.error(format!("must have {} bytes, has {}", TicketKey::LENGTH, bytes.len())),
        }
    }
    if keys.is_empty() {
        field.error("at least one key is required");
    }
    (!loaded.is_empty() && loaded.len() == keys.len()).then_some(loaded)
}
