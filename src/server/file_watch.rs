//! Notices that files of certificates, or links to runtime values, have changed, by inotify: written in place, replaced by a rename, or reached by a symbolic link that
//! now points elsewhere, as Kubernetes and certbot do it.
//!
//! What is watched are directories, and in them the names that lead to a file: its own, and that of every link on the way. When a
//! name has changed and nothing has for a moment, there is a [`Change::Files`]; which file holds something else is for that to find out.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::snapshot::Change;
use crate::tls::WatchedFiles;

use super::process::Process;

/// Nothing must have changed for this long before files are read: a certificate and its key are written one after the other.
const SETTLE: Duration = Duration::from_millis(300);

/// Files that change all the time are read nevertheless, after this time.
const UNSETTLED: Duration = Duration::from_secs(5);

/// Links on the way to one file, as the kernel follows them.
const MAX_LINKS: usize = 40;

/// Tells the door of changes for as long as the process lives.
pub async fn follow(process: Rc<Process>) {
    let mut watch = match FileWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "files of certificates are not watched: a reload reads them");
            return;
        }
    };
    loop {
        watch.set(&process.files());
        // Here and not after the event: what changed before it was watched is found, too.
        if process.door().apply(Change::Files).await.is_none() {
            return;
        }
        if let Err(error) = watch.changed().await {
            tracing::warn!(%error, "files of certificates are not watched any more: a reload reads them");
            return;
        }
    }
}

/// The directories that lead to files.
struct FileWatch {
    inotify: AsyncFd<OwnedFd>,
    names: HashMap<i32, Names>,
}

/// The names in one directory whose changes count.
#[derive(Debug, PartialEq)]
enum Names {
    Some(Vec<OsString>),
    All,
}

impl FileWatch {
    fn new() -> io::Result<FileWatch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(FileWatch { inotify: AsyncFd::new(inotify)?, names: HashMap::new() })
    }

    /// Watches what leads to these files now.
    fn set(&mut self, files: &WatchedFiles) {
        let mut names = HashMap::new();
        for (directory, name) in files.paths().flat_map(steps) {
            let Some(watch) = self.add(&directory) else { continue };
            if let Names::Some(names) = names.entry(watch).or_insert_with(|| Names::Some(Vec::new())) {
                names.push(name);
            }
        }
        for directory in files.directories() {
            if let Some(watch) = self.add(directory) {
                names.insert(watch, Names::All);
            }
        }
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            // One whose directory has gone has gone with it.
            let _ = inotify::remove_watch(&self.inotify, *watch);
        }
        self.names = names;
    }

    fn add(&self, directory: &Path) -> Option<i32> {
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.inotify, directory, events)
            .inspect_err(|error| tracing::warn!(?directory, %error, "the directory cannot be watched"))
            .ok()
    }

    /// Resolves when something has changed, and then nothing for a moment.
    async fn changed(&self) -> io::Result<()> {
        while !self.next().await? {}
        let latest = Instant::now() + UNSETTLED;
        let mut settled = Instant::now() + SETTLE;
        while let Ok(counts) = timeout_at(settled.min(latest), self.next()).await {
            if counts? {
                settled = Instant::now() + SETTLE;
            }
        }
        Ok(())
    }

    /// Awaits events, and says whether one of them counts.
    async fn next(&self) -> io::Result<bool> {
        let mut ready = self.inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut counts = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    counts |= self.counts(event.wd(), event.events(), name);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    ready.clear_ready();
                    return Ok(counts);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn counts(&self, watch: i32, events: ReadFlags, name: Option<&OsStr>) -> bool {
        // The directory itself, or more than the kernel could keep.
        let Some(name) = name else { return !events.contains(ReadFlags::IGNORED) };
        match self.names.get(&watch) {
            Some(Names::Some(names)) => names.iter().any(|known| known == name),
            Some(Names::All) => true,
            None => false,
        }
    }
}

/// The steps on the way to a file that may come to lead elsewhere, each a directory and a name in it: links, the first name that does not
/// exist, and the file's own.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut steps = Vec::new();
    let mut directory = PathBuf::from(".");
    let mut ahead: VecDeque<OsString> = names(path).collect();
    while let Some(name) = ahead.pop_front() {
        let here = if name == "/" { PathBuf::from("/") } else { directory.join(&name) };
        match fs::read_link(&here) {
            Ok(target) if steps.len() < MAX_LINKS => {
                steps.push((directory.clone(), name));
                ahead = names(&target).chain(ahead).collect();
            }
            Ok(_) => return steps,
            Err(_) if ahead.is_empty() || !here.exists() => {
                steps.push((directory, name));
                return steps;
            }
            Err(_) => directory = here,
        }
    }
    steps
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_a_step() {
        let directory = TempDir::new().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("..2024")).unwrap();
        fs::write(root.join("..2024/tls.crt"), "").unwrap();
        symlink("..2024", root.join("..data")).unwrap();
        symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
        let step = |directory: &Path, name: &str| (directory.to_owned(), OsString::from(name));
        assert_eq!(
            steps(&root.join("tls.crt")),
            [step(&root, "tls.crt"), step(&root, "..data"), step(&root.join("..2024"), "tls.crt")]
        );
        assert_eq!(steps(&root.join("none/tls.crt")), [step(&root, "none")]);
    }

    #[tokio::test]
    async fn changes_of_other_names_do_not_count() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a.pem");
        fs::write(&path, "1").unwrap();
        let mut watch = FileWatch::new().unwrap();
        watch.set(&WatchedFiles::of([path.as_path()]));
        fs::write(directory.path().join("b.pem"), "1").unwrap();
        assert!(!watch.next().await.unwrap());
        fs::write(directory.path().join("new"), "2").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert!(watch.next().await.unwrap());
    }
}
