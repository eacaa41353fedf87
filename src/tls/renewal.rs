//! Contexts whose files have changed, made anew.
//!
//! What the files hold now is checked as at the start, and more strictly in that a certificate must not have expired. What does not pass is
//! refused: the log says why, and the context stays as it was, until a file of it changes again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use crate::{
    config::{Field, Report, Severity},
    proto::tls::Secret,
    stats,
};

use super::{
    DownstreamTls, LoadedCertificate, SecretCounts, Secrets, TicketKeys, UpstreamTls, WatchedFiles, files::FileReader,
};

stats::declare! {
    /// Of files with certificates, keys, authorities, revocation lists, OCSP responses and ticket keys, under `certificates.`
    pub struct RenewalStats {
        /// Times that a listener or a cluster went over to what changed files hold.
        update_success: Counter,
        /// Times that what changed files hold was refused, and a listener or a cluster stayed with what it had.
        update_rejected: Counter,
    }
}

/// One look at the files that have changed.
pub struct Renewal<'a> {
    changed: BTreeSet<PathBuf>,
    secrets: Secrets,
    read: FileReader,
    stats: &'a RenewalStats,
}

/// Whose context it is, for the log.
#[derive(Clone, Copy)]
pub enum Owner<'a> {
    /// A listener, by its name.
    Listener(&'a str),
    /// A cluster, by its name.
    Cluster(&'a str),
}

impl<'a> Renewal<'a> {
    /// These files have changed; `secrets` are the configured ones, which may name some of them.
    #[must_use]
    pub fn new(
        changed: BTreeSet<PathBuf>,
        secrets: &[Secret],
        ticket_keys: &Arc<TicketKeys>,
        counts: &Rc<SecretCounts>,
        stats: &'a RenewalStats,
    ) -> Renewal<'a> {
        let report = Report::new();
        let secrets = Secrets::from_proto(secrets, Field::root(&report).key("secrets"));
        let secrets = secrets.with_ticket_keys(ticket_keys).with_counts(counts);
        for reason in errors(report) {
            tracing::error!(name: "certificates_refused", reason, "a secret cannot be read");
        }
        Renewal { changed, secrets, read: FileReader::default(), stats }
    }

    /// The context after the change; `None` if it stays as it is.
    #[must_use]
    pub fn downstream(&self, tls: &DownstreamTls, owner: Owner<'_>) -> Option<Arc<DownstreamTls>> {
        self.renew(tls.files(), owner, |field, files| {
            let renewed = tls.renewed(field, &self.secrets, files)?;
            no_expired(renewed.certificates(), field).then_some(renewed)
        })
    }

    /// The context after the change; `None` if it stays as it is.
    #[must_use]
    pub fn upstream(&self, tls: &UpstreamTls, owner: Owner<'_>) -> Option<Arc<UpstreamTls>> {
        self.renew(tls.files(), owner, |field, files| {
            let renewed = tls.renewed(field, &self.secrets, files)?;
            no_expired(renewed.certificate(), field).then_some(renewed)
        })
    }

    /// All that was read: what to watch beside the files of contexts that are in force.
    #[must_use]
    pub fn files(&self) -> WatchedFiles {
        self.read.files()
    }

    fn renew<T>(
        &self,
        files: &WatchedFiles,
        owner: Owner<'_>,
        load: impl FnOnce(Field<'_>, &FileReader) -> Option<T>,
    ) -> Option<Arc<T>> {
        let changed: Vec<&Path> = files.among(&self.changed).collect();
        if changed.is_empty() {
            return None;
        }
        let report = Report::new();
        let renewed = load(Field::root(&report), &self.read);
        let reasons = errors(report);
        if let (Some(renewed), true) = (renewed, reasons.is_empty()) {
            self.stats.update_success.inc();
            owner.log_renewed(&changed);
            return Some(Arc::new(renewed));
        }
        self.stats.update_rejected.inc();
        owner.log_refused(&changed, &reasons.join("; "));
        None
    }
}

impl Owner<'_> {
    fn log_renewed(self, files: &[&Path]) {
        match self {
            Owner::Listener(listener) => {
                tracing::info!(name: "certificates_renewed", listener, ?files, "new connections use the changed files");
            }
            Owner::Cluster(cluster) => {
                tracing::info!(name: "certificates_renewed", cluster, ?files, "new connections use the changed files");
            }
        }
    }

    fn log_refused(self, files: &[&Path], reason: &str) {
        match self {
            Owner::Listener(listener) => {
                tracing::error!(name: "certificates_refused", listener, ?files, reason, "changed files are refused, what was read before stays in use");
            }
            Owner::Cluster(cluster) => {
                tracing::error!(name: "certificates_refused", cluster, ?files, reason, "changed files are refused, what was read before stays in use");
            }
        }
    }
}

fn errors(report: Report) -> Vec<String> {
    let problems = report.into_problems().into_iter();
    problems.filter(|problem| problem.severity == Severity::Error).map(|problem| problem.to_string()).collect()
}

fn no_expired<'c>(certificates: impl IntoIterator<Item = &'c LoadedCertificate>, field: Field<'_>) -> bool {
    let now = SystemTime::now();
    let expired = |loaded: &&LoadedCertificate| loaded.facts.not_after.is_some_and(|end| end < now);
    let expired: Vec<_> = certificates.into_iter().filter(expired).collect();
    for LoadedCertificate { path, facts, ocsp: _ } in &expired {
        field.error(format!("the certificate {:?} in {path} has expired", facts.subject));
    }
    expired.is_empty()
}
