//! Secrets by name: `static_resources.secrets`, those in files of their own (SDS by `path_config_source`), and the process's own
//! session ticket keys.

use std::{cell::RefCell, collections::HashMap, fs, path::Path, rc::Rc, sync::Arc};

use prost::Message;

use crate::{
    config::{self, Report, Severity, Source, field::Field},
    proto::{
        core::{ConfigSource, PathConfigSource, config_source::ConfigSourceSpecifier},
        discovery::DiscoveryResponse,
        tls::{CertificateValidationContext, SdsSecretConfig, Secret, TlsSessionTicketKeys, secret},
    },
};

use super::{
    certificate::Certificate,
    files::{FileReader, WatchedFiles},
    secret_counts::{SecretCounts, Update},
    ticket::TicketKey,
    ticket_keys::TicketKeys,
    validation::Validation,
};

/// The secrets that contexts may refer to while a document is loaded, and the ticket keys of contexts that configure none.
#[derive(Debug, Default)]
pub struct Secrets {
    by_name: HashMap<String, Arc<LoadedSecret>>,
    /// Those in files of their own, each read once.
    by_path: RefCell<HashMap<String, Arc<LoadedSecret>>>,
    own_ticket_keys: Arc<TicketKeys>,
    counts: Option<Rc<SecretCounts>>,
}

/// A secret, and what it was read from.
#[derive(Debug)]
struct LoadedSecret {
    name: String,
    value: SecretValue,
    files: WatchedFiles,
}

#[derive(Debug)]
enum SecretValue {
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
        for (index, proto) in secrets.iter().enumerate() {
            let field = field.index(index);
            let secret = LoadedSecret::from_proto(proto, field, &FileReader::default());
            if by_name.insert(proto.name.clone(), Arc::new(secret)).is_some() {
                field.key("name").error(format!("another secret is named {:?}, too", proto.name));
            }
        }
        Secrets { by_name, ..Secrets::default() }
    }

    /// With the ticket keys of the process; else there are some for these contexts alone.
    #[must_use]
    pub fn with_ticket_keys(self, keys: &Arc<TicketKeys>) -> Secrets {
        Secrets { own_ticket_keys: Arc::clone(keys), ..self }
    }

    /// Those in files of their own are counted here.
    #[must_use]
    pub fn with_counts(self, counts: &Rc<SecretCounts>) -> Secrets {
        Secrets { counts: Some(Rc::clone(counts)), ..self }
    }

    pub(super) fn own_ticket_keys(&self) -> Arc<TicketKeys> {
        Arc::clone(&self.own_ticket_keys)
    }

    /// `files` comes to know what the secret was read from, here and below.
    pub(super) fn certificate(
        &self,
        reference: &SdsSecretConfig,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Arc<Certificate>> {
        match &self.find(reference, field, files)?.value {
            SecretValue::Certificate(certificate) => Some(Arc::clone(certificate)),
            other => other.is_not("a TLS certificate", field),
        }
    }

    pub(super) fn validation(
        &self,
        reference: &SdsSecretConfig,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Arc<Validation>> {
        match &self.find(reference, field, files)?.value {
            SecretValue::Validation { validation, .. } => Some(Arc::clone(validation)),
            other => other.is_not("a validation context", field),
        }
    }

    /// A validation context with what the secret adds to it.
    pub(super) fn combined_validation(
        &self,
        default: &CertificateValidationContext,
        reference: &SdsSecretConfig,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Arc<Validation>> {
        let reference_field = field.key("validation_context_sds_secret_config");
        let secret = self.find(reference, reference_field, files)?;
        let added = match &secret.value {
            SecretValue::Validation { proto, .. } => proto,
            other => return other.is_not("a validation context", reference_field),
        };
        let mut combined = default.clone();
        combined.merge(added.encode_to_vec().as_slice()).expect("invariant: it was encoded just now");
        Validation::from_proto(&combined, field.key("default_validation_context"), files)
    }

    pub(super) fn ticket_keys(
        &self,
        reference: &SdsSecretConfig,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Vec<Arc<TicketKey>>> {
        match &self.find(reference, field, files)?.value {
            SecretValue::TicketKeys(keys) => Some(keys.clone()),
            other => other.is_not("a set of session ticket keys", field),
        }
    }

    fn find(&self, reference: &SdsSecretConfig, field: Field<'_>, files: &FileReader) -> Option<Arc<LoadedSecret>> {
        let SdsSecretConfig { name, sds_config } = reference;
        let found = if let Some(source) = sds_config {
            self.in_file(name, source, field.key("sds_config"))?
        } else {
            let found = self.by_name.get(name);
            if found.is_none() {
                field.key("name").error(format!("there is no {name:?} in static_resources.secrets"));
            }
            Arc::clone(found?)
        };
        files.extend(&found.files);
        if found.name != *name && !matches!(found.value, SecretValue::Broken) {
            field.key("name").error(format!("the file holds the secret {:?}", found.name));
            return None;
        }
        Some(found)
    }

    /// The secret in a file of its own.
    fn in_file(&self, name: &str, proto: &ConfigSource, field: Field<'_>) -> Option<Arc<LoadedSecret>> {
        let ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } = proto;
        field.unsupported("authorities", authorities);
        field.ignored("initial_fetch_timeout", initial_fetch_timeout, "files are read at once");
        let _ = resource_api_version; // There is but one.
        let files = FileReader::default();
        let (path, place) = match field.required("config_source_specifier", config_source_specifier)? {
            ConfigSourceSpecifier::Path(path) => (path, field.key("path")),
            ConfigSourceSpecifier::PathConfigSource(PathConfigSource { path, watched_directory, poll_interval }) => {
                field.ignored("poll_interval", poll_interval, "a change is noticed at once");
                files.watch(watched_directory.as_ref());
                (path, field.key("path_config_source"))
            }
            ConfigSourceSpecifier::ApiConfigSource(_) => {
                field.unsupported("api_config_source", &true);
                return None;
            }
            ConfigSourceSpecifier::Ads(_) => {
                field.unsupported("ads", &true);
                return None;
            }
            ConfigSourceSpecifier::Self_(_) => {
                field.unsupported("self", &true);
                return None;
            }
        };
        if let Some(known) = self.by_path.borrow().get(path) {
            return Some(Arc::clone(known));
        }
        let secret = Arc::new(LoadedSecret::read(Path::new(path), place, files));
        if let Some(counts) = &self.counts {
            counts.count(name, secret.files.digest(Path::new(path)), secret.update());
        }
        self.by_path.borrow_mut().insert(path.clone(), Arc::clone(&secret));
        Some(secret)
    }
}

impl LoadedSecret {
    fn from_proto(proto: &Secret, field: Field<'_>, files: &FileReader) -> LoadedSecret {
        let Secret { name, r#type } = proto;
        let value = SecretValue::from_proto(r#type.as_ref(), field, files).unwrap_or(SecretValue::Broken);
        LoadedSecret { name: name.clone(), value, files: files.files() }
    }

    fn update(&self) -> Update {
        match (&self.value, self.name.is_empty()) {
            (SecretValue::Broken, true) => Update::Missing,
            (SecretValue::Broken, false) => Update::Refused,
            _ => Update::Accepted,
        }
    }

    /// Reads a file that holds one secret, as the answer of a secret discovery service.
    fn read(path: &Path, field: Field<'_>, files: FileReader) -> LoadedSecret {
        let bytes =
            fs::read(path).inspect_err(|error| field.error(format!("cannot read {}: {error}", path.display()))).ok();
        files.remember(path, bytes.as_deref());
        let report = Report::new();
        let loaded = match bytes.and_then(|bytes| sole_secret(path, &bytes, &report)) {
            Some(secret) => LoadedSecret::from_proto(&secret, Field::root(&report).key("resources").index(0), &files),
            None => LoadedSecret { name: String::new(), value: SecretValue::Broken, files: files.files() },
        };
        for problem in report.into_problems() {
            let message = format!("{}: {problem}", path.display());
            match problem.severity {
                Severity::Error => field.error(message),
                Severity::Warning => field.warning(message),
            }
        }
        loaded
    }
}

/// The secret that such a document holds.
fn sole_secret(path: &Path, bytes: &[u8], report: &Report) -> Option<Secret> {
    let root = Field::root(report);
    let text = std::str::from_utf8(bytes).inspect_err(|error| root.error(error.to_string())).ok()?;
    let source = Source::new(path.display().to_string(), text);
    let DiscoveryResponse { resources, .. } = config::load(&source, report)?;
    let list = root.key("resources");
    match resources.as_slice() {
        [resource] => list.index(0).unpack(resource),
        other => {
            list.error(format!("must hold one secret, holds {}", other.len()));
            None
        }
    }
}

impl SecretValue {
    fn is_not<T>(&self, kind: &str, field: Field<'_>) -> Option<T> {
        if !matches!(self, SecretValue::Broken) {
            field.key("name").error(format!("this secret is not {kind}"));
        }
        None
    }

    fn from_proto(secret: Option<&secret::Type>, field: Field<'_>, files: &FileReader) -> Option<SecretValue> {
        match secret {
            Some(secret::Type::TlsCertificate(proto)) => {
                Certificate::from_proto(proto, field.key("tls_certificate"), files).map(SecretValue::Certificate)
            }
            Some(secret::Type::ValidationContext(proto)) => {
                let validation = Validation::from_proto(proto, field.key("validation_context"), files)?;
                Some(SecretValue::Validation { proto: Box::new(proto.clone()), validation })
            }
            Some(secret::Type::SessionTicketKeys(proto)) => {
                ticket_keys(proto, field.key("session_ticket_keys"), files).map(SecretValue::TicketKeys)
            }
            Some(secret::Type::GenericSecret(_)) => Some(SecretValue::Generic),
            None => {
                field.error(
                    "one of tls_certificate, validation_context, session_ticket_keys, generic_secret is required",
                );
                None
            }
        }
    }
}

/// Session ticket keys that several processes share.
pub(super) fn ticket_keys(
    proto: &TlsSessionTicketKeys,
    field: Field<'_>,
    files: &FileReader,
) -> Option<Vec<Arc<TicketKey>>> {
    let TlsSessionTicketKeys { keys } = proto;
    let field = field.key("keys");
    let mut loaded = Vec::with_capacity(keys.len());
    for (index, source) in keys.iter().enumerate() {
        let field = field.index(index);
        let Some(bytes) = files.read(source, field) else { continue };
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
