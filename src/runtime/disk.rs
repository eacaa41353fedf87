//! Layers of the runtime that are directories: each file is a value, its path below the directory the key, with dots for slashes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::Value;
use crate::{config::Field, proto};

/// Directories within directories that are still read.
const MAX_DEPTH: usize = 16;

/// A `disk_layer`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DiskLayer {
    /// The link that is put in the place of another one when values change.
    pub(super) root: PathBuf,
    directory: PathBuf,
}

impl DiskLayer {
    /// Converts the message; with `append_service_cluster`, the layer is what is meant for `service_cluster`.
    pub(super) fn from_proto(
        proto: &proto::bootstrap::runtime_layer::DiskLayer,
        service_cluster: &str,
        field: Field<'_>,
    ) -> DiskLayer {
        let proto::bootstrap::runtime_layer::DiskLayer { symlink_root, append_service_cluster, subdirectory } = proto;
        let root = PathBuf::from(symlink_root);
        let mut directory = root.join(subdirectory.trim_start_matches('/'));
        if *append_service_cluster {
            directory.push(service_cluster);
        }
        if !root.parent().is_some_and(Path::exists) {
            field.key("symlink_root").error(format!("cannot be watched: there is no directory of {symlink_root:?}"));
        }
        DiskLayer { root, directory }
    }

    /// The values; `None` if there is no such directory.
    pub(super) fn read(&self) -> Option<io::Result<BTreeMap<String, Value>>> {
        if !self.directory.is_dir() {
            return None;
        }
        let mut values = BTreeMap::new();
        Some(read_directory(&self.directory, "", 1, &mut values).map(|()| values))
    }
}

fn read_directory(
    directory: &Path,
    prefix: &str,
    depth: usize,
    values: &mut BTreeMap<String, Value>,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("directories are nested deeper than {MAX_DEPTH}")));
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let key = format!("{prefix}{name}");
        if path.is_dir() {
            read_directory(&path, &format!("{key}."), depth + 1, values)?;
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
            values.insert(key, Value::from_text(lines.join("\n").trim_end()));
        }
    }
    Ok(())
}
