//! `envoy.config.core.v3.DataSource`: bytes from a file, from the document itself or from the environment.

use std::fs;

use crate::proto::core::{DataSource, data_source::Specifier};

use super::field::Field;

/// What the source holds now; `None` when an error has been reported.
#[must_use]
pub fn read(source: &DataSource, field: Field<'_>) -> Option<Vec<u8>> {
    let why = "files are read again when the configuration is loaded again";
    field.ignored("watched_directory", &source.watched_directory, why);
    content(&source.specifier, field)
}

/// The same, for a caller that sees to the source's `watched_directory`.
#[must_use]
pub fn content(specifier: &Option<Specifier>, field: Field<'_>) -> Option<Vec<u8>> {
    match specifier {
        Some(Specifier::Filename(path)) => fs::read(path)
            .inspect_err(|error| field.key("filename").error(format!("cannot read {path:?}: {error}")))
            .ok(),
        Some(Specifier::InlineBytes(bytes)) => Some(bytes.clone()),
        Some(Specifier::InlineString(text)) => Some(text.clone().into_bytes()),
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(value) => Some(value.into_bytes()),
            Err(error) => {
                field.key("environment_variable").error(format!("cannot read {name:?}: {error}"));
                None
            }
        },
        None => {
            field.error("one of filename, inline_bytes, inline_string and environment_variable is required");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::field::Report;

    use super::*;

    #[test]
    fn every_kind_of_source() {
        let read = |specifier| {
            let report = Report::new();
            let found = read(&DataSource { watched_directory: None, specifier }, Field::root(&report));
            (found, report.into_problems().into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(read(Some(Specifier::InlineString("a".into()))), (Some(b"a".to_vec()), vec![]));
        assert_eq!(read(Some(Specifier::InlineBytes(b"b".to_vec()))), (Some(b"b".to_vec()), vec![]));
        let (found, problems) = read(Some(Specifier::Filename("/nonexistent".into())));
        assert_eq!(found, None);
        assert!(problems[0].starts_with("filename: cannot read \"/nonexistent\": No such file"), "{problems:?}");
        assert!(read(Some(Specifier::EnvironmentVariable("PORTREEVE_NOT_SET".into()))).0.is_none());
        assert!(read(None).0.is_none());
    }
}
