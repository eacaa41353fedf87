//! The configuration as the command line gives it: a file, a document of its own, or one merged over the other.

use std::fmt;
use std::io;
use std::path::PathBuf;

use prost::Message;

use crate::access_log::Mode;
use crate::config::{self, Colours, Diagnostics, Report, Source};
use crate::filter::Services;
use crate::proto::bootstrap::Bootstrap;
use crate::proto::metrics::{TagSpecifier, tag_specifier::TagValue};
use crate::snapshot::{Change, ConfigManager};
use crate::stats::Registry;

use super::Options;

/// Where the configuration stands.
#[derive(Debug, Clone, Default)]
pub struct ConfigSource {
    /// A file.
    pub path: Option<PathBuf>,
    /// A document that is merged over the file, or stands for it.
    pub yaml: Option<String>,
    /// Names and values of tags that all statistics have, beside those of `stats_config`.
    pub stats_tags: Vec<(String, String)>,
}

/// What the command line says in place of the configuration's `node`.
#[derive(Debug, Clone, Default)]
pub struct NodeOverrides {
    /// `node.id`
    pub id: Option<String>,
    /// `node.cluster`
    pub cluster: Option<String>,
    /// `node.locality.zone`
    pub zone: Option<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Neither a file nor a document is given.
    #[error("no configuration is given")]
    Missing,
    /// The file cannot be read.
    #[error("cannot read the configuration file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There are errors in it.
    #[error("the configuration is refused:\n{0}")]
    Refused(Problems),
}

/// What is wrong with a document, each problem at its line.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl Problems {
    fn of(diagnostics: &Diagnostics<'_>) -> Problems {
        Problems(diagnostics.rendered(Colours::Off).collect())
    }

    /// Each problem, without the end of its last line.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|problem| problem.trim_end())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.concat().trim_end())
    }
}

/// A document that could be read. What is wrong with it so far is in the report.
#[derive(Debug)]
pub struct Document {
    source: Source,
    bootstrap: Box<Bootstrap>,
    report: Report,
}

impl Document {
    /// Reads the configuration that the options name.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense at all.
    pub fn load(options: &Options) -> Result<Document, DocumentError> {
        let ConfigSource { path, yaml, stats_tags } = &options.config;
        let file = path.as_ref().map(|path| {
            Source::read(path)
                .map_err(|source| DocumentError::Read { path: path.clone(), source })
                .and_then(Document::parse)
        });
        let inline = yaml.as_ref().map(|yaml| Document::parse(Source::new("--config-yaml", yaml.as_str())));
        let mut document = match (file.transpose()?, inline.transpose()?) {
            (Some(file), Some(inline)) => file.merged_with(inline)?,
            (Some(document), None) | (None, Some(document)) => document,
            (None, None) => return Err(DocumentError::Missing),
        };
        document.name_node(&options.node);
        document.tag_stats(stats_tags);
        Ok(document)
    }

    fn parse(source: Source) -> Result<Document, DocumentError> {
        let report = Report::new();
        match config::load(&source, &report) {
            Some(bootstrap) => Ok(Document { source, bootstrap: Box::new(bootstrap), report }),
            None => Err(refused(&source, report)),
        }
    }

    /// Protobuf's merge, as in Envoy: single values are replaced, lists appended to. Problems that conversion finds in what is merged are
    /// shown at the place in the file that is nearest.
    fn merged_with(mut self, over: Document) -> Result<Document, DocumentError> {
        if over.report.has_errors() {
            return Err(refused(&over.source, over.report));
        }
        match self.bootstrap.merge(over.bootstrap.encode_to_vec().as_slice()) {
            Ok(()) => Ok(self),
            Err(error) => Err(DocumentError::Refused(Problems(vec![format!("{}: {error}", over.source.name())]))),
        }
    }

    fn name_node(&mut self, node: &NodeOverrides) {
        let NodeOverrides { id, cluster, zone } = node;
        if id.is_none() && cluster.is_none() && zone.is_none() {
            return;
        }
        let configured = self.bootstrap.node.get_or_insert_default();
        if let Some(id) = id {
            configured.id.clone_from(id);
        }
        if let Some(cluster) = cluster {
            configured.cluster.clone_from(cluster);
        }
        if let Some(zone) = zone {
            configured.locality.get_or_insert_default().zone.clone_from(zone);
        }
    }

    fn tag_stats(&mut self, tags: &[(String, String)]) {
        if tags.is_empty() {
            return;
        }
        let configured = &mut self.bootstrap.stats_config.get_or_insert_default().stats_tags;
        configured.extend(tags.iter().map(|(name, value)| TagSpecifier {
            tag_name: name.clone(),
            tag_value: Some(TagValue::FixedValue(value.clone())),
        }));
    }

    /// What the document is called.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// Puts the document in force; answers warnings, each at its line.
    ///
    /// # Errors
    /// There are errors in it.
    pub fn apply(self, manager: &mut ConfigManager) -> Result<Option<Problems>, DocumentError> {
        let Document { source, bootstrap, report } = self;
        if manager.apply(Change::Bootstrap(bootstrap, &report)).is_err() {
            return Err(refused(&source, report));
        }
        let warnings = Diagnostics::new(&source, report);
        Ok((warnings.warnings() > 0).then(|| Problems::of(&warnings)))
    }

    /// Converts the document and throws the result away.
    ///
    /// # Errors
    /// There are errors in it.
    pub fn validate(self) -> Result<(), DocumentError> {
        self.apply(&mut ConfigManager::new(Registry::new(0), Mode::Check, Services::default())).map(|_| ())
    }
}

fn refused(source: &Source, report: Report) -> DocumentError {
    DocumentError::Refused(Problems::of(&Diagnostics::new(source, report)))
}
