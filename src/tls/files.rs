//! The files that TLS is made of: read here, so that it is known which ones to watch and what stood in them.
//!
//! A [`FileReader`] reads the sources of one context; what it has read, the context keeps as [`WatchedFiles`]. Contents are
//! remembered by their digest: a file that was only touched has not changed, and one that cannot be read any more has.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    config::{data_source, field::Field},
    proto::core::{DataSource, WatchedDirectory, data_source::Specifier},
};

use super::x509::sha256;

/// Files, with what stood in each when it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedFiles {
    /// Digests of contents; `None`: the file could not be read.
    contents: BTreeMap<PathBuf, Option<[u8; 32]>>,
    /// `watched_directory`: moves there announce new files.
    directories: BTreeSet<PathBuf>,
}

/// Reads sources and remembers the files among them.
#[derive(Debug, Default)]
pub(super) struct FileReader(RefCell<WatchedFiles>);

impl WatchedFiles {
    /// These files, as they are now.
    #[cfg(test)]
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> WatchedFiles {
        let mut files = WatchedFiles::default();
        files.contents.extend(paths.into_iter().map(|path| (path.to_owned(), None)));
        files.look_again();
        files
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.contents.keys().map(PathBuf::as_path)
    }

    /// Directories in which anything that moves announces new files.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(PathBuf::as_path)
    }

    /// The digest of what stood in a file; `None` if it could not be read.
    pub(super) fn digest(&self, path: &Path) -> Option<[u8; 32]> {
        self.contents.get(path).copied().flatten()
    }

    /// Adds a path that may be of a directory: what counts is that it leads elsewhere.
    pub fn watch(&mut self, path: &Path) {
        self.contents.entry(path.to_owned()).or_default();
    }

    /// Adds the files of `other`.
    pub fn extend(&mut self, other: &WatchedFiles) {
        self.contents.extend(other.contents.iter().map(|(path, digest)| (path.clone(), *digest)));
        self.directories.extend(other.directories.iter().cloned());
    }

    /// Reads all files; answers those that are not as they were, and remembers how they are now.
    pub fn look_again(&mut self) -> BTreeSet<PathBuf> {
        let mut changed = BTreeSet::new();
        for (path, digest) in &mut self.contents {
            let now = fs::read(path).ok().map(|bytes| sha256(&bytes));
            if now != *digest {
                *digest = now;
                changed.insert(path.clone());
            }
        }
        changed
    }

    /// Those that are among `paths`.
    pub(super) fn among<'a>(&'a self, paths: &'a BTreeSet<PathBuf>) -> impl Iterator<Item = &'a Path> {
        self.paths().filter(|path| paths.contains(*path))
    }
}

impl FileReader {
    /// What the source holds now; `None` when an error has been reported.
    pub(super) fn read(&self, source: &DataSource, field: Field<'_>) -> Option<Vec<u8>> {
        let DataSource { watched_directory, specifier } = source;
        self.watch(watched_directory.as_ref());
        let bytes = data_source::content(specifier, field);
        if let Some(Specifier::Filename(path)) = specifier {
            self.remember(Path::new(path), bytes.as_deref());
        }
        bytes
    }

    /// Remembers what stands in a file; `None` if it cannot be read.
    pub(super) fn remember(&self, path: &Path, bytes: Option<&[u8]>) {
        self.0.borrow_mut().contents.insert(path.to_owned(), bytes.map(sha256));
    }

    /// Moves in this directory announce new files.
    pub(super) fn watch(&self, directory: Option<&WatchedDirectory>) {
        // Whether they are moved there or written, any change counts.
        if let Some(WatchedDirectory { path, watch_modify: _ }) = directory {
            self.0.borrow_mut().directories.insert(path.into());
        }
    }

    /// Adds files that something else has read.
    pub(super) fn extend(&self, files: &WatchedFiles) {
        self.0.borrow_mut().extend(files);
    }

    /// All that was read.
    pub(super) fn files(&self) -> WatchedFiles {
        self.0.borrow().clone()
    }
}
