//! The files of a demo: a certificate authority, the certificate that it issued, a token.
//!
//! They stay where they are, so that a browser has to be told about the authority only once, and two demos with different
//! ports do not disturb each other. Nobody else can read them.

use std::{
    env,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use time::OffsetDateTime;

use crate::cli::workers::Server;

/// How long certificates are valid, and from which age on new ones are made.
const VALID: Duration = Duration::from_hours(365 * 24);
const OLD: Duration = Duration::from_hours(300 * 24);

/// The directory with the files.
#[derive(Debug)]
pub struct Files(PathBuf);

impl Files {
    /// The files in this directory, made where they are missing.
    pub fn prepare(directory: Option<PathBuf>) -> anyhow::Result<Files> {
        let directory = directory.unwrap_or_else(default_directory);
        let files = Files(std::path::absolute(directory)?);
        files.own_directory().with_context(|| format!("cannot use {}", files.0.display()))?;
        files.fill().with_context(|| format!("cannot write to {}", files.0.display()))?;
        Ok(files)
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// One of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The way to the registration API of the ingress on this port.
    pub fn client(&self, port: u16) -> Server {
        Server {
            address: format!("https://127.0.0.1:{port}"),
            token_file: Some(self.path("token")),
            ca: Some(self.path("ca.pem")),
        }
    }

    /// Makes the directory. One that somebody else made in /tmp is not to be trusted with a key.
    fn own_directory(&self) -> anyhow::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.0) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let found = fs::symlink_metadata(&self.0)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            bail!("it is not a directory of yours");
        }
        fs::set_permissions(&self.0, Permissions::from_mode(0o700))?;
        Ok(())
    }

    fn fill(&self) -> anyhow::Result<()> {
        if !self.is_fresh("server.pem") {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "Portreeve Demo Authority");
            validity(&mut params);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

            let names = ["localhost", "127.0.0.1", "::1"];
            let mut params = CertificateParams::new(names.map(str::to_owned))?;
            params.distinguished_name.push(DnType::CommonName, "Portreeve Demo");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            validity(&mut params);
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?;
            self.write("ca.pem", &authority.pem())?;
            self.write("server.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        }
        if !self.is_fresh("token") {
            self.write("token", &format!("{}\n", random_token()?))?;
        }
        Ok(())
    }

    fn is_fresh(&self, name: &str) -> bool {
        let modified = fs::metadata(self.path(name)).and_then(|found| found.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age < OLD)
    }

    /// Writes a file as a whole, or not at all.
    fn write(&self, name: &str, content: &str) -> io::Result<()> {
        let unfinished = self.path(&format!(".{name}.{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(content.as_bytes())?;
        fs::rename(unfinished, self.path(name))
    }
}

fn default_directory() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").filter(|directory| Path::new(directory).is_dir()) {
        Some(runtime) => Path::new(&runtime).join("portreeve-demo"),
        None => env::temp_dir().join(format!("portreeve-demo-{}", rustix::process::geteuid().as_raw())),
    }
}

fn validity(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::from_hours(24);
    params.not_after = now + VALID;
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_once_and_for_nobody_else() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("demo");
        let files = Files::prepare(Some(directory.clone())).unwrap();
        let token = fs::read(files.path("token")).unwrap();
        Files::prepare(Some(directory)).unwrap();
        assert_eq!(fs::read(files.path("token")).unwrap(), token);
        for name in ["", "token", "server.pem", "ca.pem"] {
            assert_eq!(fs::metadata(files.path(name)).unwrap().mode() & 0o077, 0, "{name}");
        }
    }

    #[test]
    fn a_link_is_not_a_directory_of_ones_own() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("demo");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        let refused = Files::prepare(Some(link)).unwrap_err();
        assert!(format!("{refused:#}").ends_with("it is not a directory of yours"), "{refused:#}");
    }
}
