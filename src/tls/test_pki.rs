//! Certificates for tests: an authority and what it signs, in files of a directory that goes with it.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use tempfile::TempDir;

/// An authority.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate in PEM form, and its key.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Issued {
    /// Both in one, as in one file.
    pub(crate) fn both(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

impl Pki {
    /// A new authority, whose certificate is in the file `ca.pem`.
    pub(crate) fn new() -> Pki {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Pki { issuer, directory: TempDir::new().unwrap() };
        pki.write("ca.pem", &pki.issuer.pem());
        pki
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names; those with `://` become URIs, those with `@` e-mail addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(&PKCS_ECDSA_P256_SHA256, names, |_| {})
    }

    /// A certificate with a key of a certain kind and further settings.
    pub(crate) fn issue_with(
        &self,
        algorithm: &'static SignatureAlgorithm,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let (params, key) = request(algorithm, names, change);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate that only its own key has signed.
    pub(crate) fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let (params, key) = request(&PKCS_ECDSA_P256_SHA256, names, change);
        Issued { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A list that revokes certificates by their serial number.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file and says where.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn request(
    algorithm: &'static SignatureAlgorithm,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let is_host = |name: &&&str| !name.contains("://") && !name.contains('@');
    let hosts: Vec<String> = names.iter().filter(is_host).map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    for name in names.iter().filter(|name| !is_host(name)) {
        let kind = if name.contains('@') { SanType::Rfc822Name } else { SanType::URI };
        params.subject_alt_names.push(kind((*name).to_owned().try_into().unwrap()));
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Test");
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
    change(&mut params);
    (params, KeyPair::generate_for(algorithm).unwrap())
}
