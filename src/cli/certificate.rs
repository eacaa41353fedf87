//! `portreeve certificate`: a self-signed certificate, so that a new installation serves TLS before anybody has brought one.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustix::system::uname;
use tempfile::NamedTempFile;
use time::OffsetDateTime;

/// Ten years: nobody renews it, and a service that stops for its sake helps nobody.
const VALID: Duration = Duration::from_hours(10 * 365 * 24);

/// The options of `portreeve certificate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An existing file is never changed.",
    after_long_help = "Examples:\n  \
        portreeve certificate --self-signed server.pem\n  \
        portreeve certificate --self-signed --if-missing --name ingress.example.com --name 192.0.2.7 server.pem\n\n\
        An existing file is never changed. The file can be read by its owner only."
)]
pub struct Args {
    /// Sign it with its own key: clients have to be told to trust it
    #[arg(long, required = true)]
    self_signed: bool,
    /// Succeed, and do nothing, if the file exists
    #[arg(long)]
    if_missing: bool,
    /// A host name or IP address that it is valid for, may be repeated; the default is this machine's name, localhost, 127.0.0.1 and `::1`
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Where certificate and key go, in one file in PEM
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Args {
    /// Makes the file, unless it exists.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Args { self_signed: _, if_missing, names, file } = self;
        if !file.exists() {
            let names = if names.is_empty() { own_names() } else { names };
            if write(&file, &self_signed(&names)?).with_context(|| format!("cannot write {}", file.display()))? {
                writeln!(io::stdout(), "{}: self-signed certificate for {}", file.display(), names.join(", "))?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        if !if_missing {
            bail!("{} exists, and is not overwritten", file.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What clients may call this machine.
fn own_names() -> Vec<String> {
    let uname = uname();
    let name = uname.nodename().to_str().unwrap_or_default();
    let is_host_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let own = (is_host_name && name != "localhost").then_some(name);
    own.into_iter().chain(["localhost", "127.0.0.1", "::1"]).map(str::to_owned).collect()
}

/// Certificate and key, in PEM.
fn self_signed(names: &[String]) -> anyhow::Result<String> {
    let mut params = CertificateParams::new(names).context("a name is neither a host name nor an IP address")?;
    let host_names = || names.iter().filter(|name| name.parse::<IpAddr>().is_err());
    if let Some(name) = host_names().next().or(names.first()) {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = OffsetDateTime::now_utc();
    // Clocks of clients are not all right.
    params.not_before = now - Duration::from_hours(24);
    params.not_after = now + VALID;
    let key = KeyPair::generate()?;
    Ok(format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Writes the file as a whole, for its owner only; answers whether it did, or somebody else had just made one.
fn write(file: &Path, content: &str) -> io::Result<bool> {
    let file = path::absolute(file)?;
    let mut unfinished = NamedTempFile::new_in(file.parent().unwrap_or(Path::new("/")))?;
    unfinished.write_all(content.as_bytes())?;
    unfinished.as_file().sync_all()?;
    match unfinished.persist_noclobber(&file) {
        Ok(_) => Ok(true),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(failed) => Err(failed.error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn args(file: &Path, if_missing: bool) -> Args {
        Args { self_signed: true, if_missing, names: vec!["a.example".to_owned()], file: file.to_owned() }
    }

    #[test]
    fn a_file_is_made_once_and_for_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.pem");
        args(&file, true).run().unwrap();
        let made = fs::read_to_string(&file).unwrap();
        assert!(made.contains("BEGIN CERTIFICATE") && made.contains("BEGIN PRIVATE KEY"), "{made}");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        args(&file, true).run().unwrap();
        let refused = args(&file, false).run().unwrap_err().to_string();
        assert!(refused.ends_with("exists, and is not overwritten"), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), made);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn what_stands_in_the_way_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.pem");
        std::os::unix::fs::symlink("/nonexistent/elsewhere", &file).unwrap();
        assert!(!write(&file, "new").unwrap());
        assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
        assert!(args(&directory.path().join("no/server.pem"), true).run().is_err());
    }

    #[test]
    fn it_is_valid_for_all_its_names() {
        let pem = self_signed(&["a.example".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 2);
        assert_eq!(certificate.subject().to_string(), "CN=a.example");
        assert!(self_signed(&["a b".repeat(3), "ä".to_owned()]).is_err());
    }
}
