//! Lists of cipher suites in `BoringSSL`'s language: `ECDHE-RSA-AES128-GCM-SHA256`, `[A|B]`, `ALL:!ECDSA`, `ECDHE+AESGCM`.
//!
//! A list concerns TLS 1.2 alone; the suites of TLS 1.3 are not for choosing, here as in Envoy.

use rustls::{SupportedCipherSuite, crypto::aws_lc_rs::cipher_suite};

use crate::config::field::Field;

/// Suites in the order in which we prefer them, with OpenSSL's names. AES-128 comes first: it is as safe as need be and the
/// cheapest where processors know AES.
pub(super) const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Suites that Envoy would take and that lack forward secrecy or authenticated encryption.
const WEAK_SUITES: [&str; 15] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "PSK-AES128-CBC-SHA",
];

/// Names of many suites at once, each with what the names of these suites contain. None of ours fits an empty list.
const ALIASES: [(&str, &[&str]); 24] = [
    ("ALL", &["ECDHE"]),
    ("DEFAULT", &["ECDHE"]),
    ("HIGH", &["ECDHE"]),
    ("FIPS", &["AES"]),
    ("TLSv1.2", &["ECDHE"]),
    ("ECDHE", &["ECDHE"]),
    ("EECDH", &["ECDHE"]),
    ("kECDHE", &["ECDHE"]),
    ("kEECDH", &["ECDHE"]),
    ("ECDSA", &["ECDHE-ECDSA-"]),
    ("aECDSA", &["ECDHE-ECDSA-"]),
    ("aRSA", &["ECDHE-RSA-"]),
    ("AES128", &["AES128"]),
    ("AES256", &["AES256"]),
    ("AES", &["AES"]),
    ("AESGCM", &["GCM"]),
    ("CHACHA20", &["CHACHA20"]),
    ("SHA", &[]),
    ("SHA1", &[]),
    ("kRSA", &[]),
    ("RSA", &[]),
    ("PSK", &[]),
    ("3DES", &[]),
    ("TLSv1", &[]),
];

/// The suites that `lists` choose for TLS 1.2, in no particular order; `None` if an error has been reported.
pub(super) fn choose(lists: &[String], field: Field<'_>) -> Option<Vec<SupportedCipherSuite>> {
    let ours: Vec<_> = SUITES.iter().filter(|(_, suite)| suite.tls13().is_none()).collect();
    let (mut chosen, mut forbidden): (Vec<&str>, Vec<&str>) = Default::default();
    let mut unknown = Vec::new();
    let mut names_others = false;
    for (index, list) in lists.iter().enumerate() {
        let field = field.index(index);
        for rule in list.split(['[', ']', '|', ':', ',', ';', ' ']).filter(|rule| !rule.is_empty()) {
            let (operator, name) = match rule.as_bytes()[0] {
                operator @ (b'-' | b'!' | b'+') => (operator, &rule[1..]),
                b'@' => continue, // the order is ours
                _ => (b' ', rule),
            };
            if WEAK_SUITES.contains(&name) {
                names_others = true;
                if operator == b' ' {
                    field.warning(format!("{name} is weak and will not be used"));
                }
                continue;
            }
            if SUITES.iter().any(|(known, suite)| *known == name && suite.tls13().is_some()) {
                field.warning("TLS 1.3 suites are always offered");
                continue;
            }
            names_others = true;
            let Some(matches) = matcher(name) else {
                unknown.push(name);
                continue;
            };
            let matching = ours.iter().map(|(known, _)| *known).filter(|known| matches(known));
            match operator {
                b' ' => chosen.extend(matching.filter(|known| !forbidden.contains(known))),
                b'-' => chosen.retain(|known| !matches(known)),
                b'!' => {
                    forbidden.extend(matching);
                    chosen.retain(|known| !matches(known));
                }
                _ => {} // moves them to the end; the order is ours
            }
        }
    }
    if !unknown.is_empty() {
        field.error(format!("unknown cipher suites: {}", unknown.join(", ")));
        return None;
    }
    if !names_others {
        field.error("only the suites of TLS 1.2 can be chosen, and none is named");
        return None;
    }
    Some(ours.iter().filter(|(name, _)| chosen.contains(name)).map(|(_, suite)| *suite).collect())
}

/// What a name stands for: one suite, or all that have everything that is named with `+` between.
fn matcher(name: &str) -> Option<impl Fn(&str) -> bool> {
    let exact = SUITES.iter().any(|(known, _)| *known == name).then(|| vec![[name].as_slice().to_vec()]);
    let alias = || {
        let parts = name.split('+').map(|part| ALIASES.iter().find(|(known, _)| *known == part));
        parts.map(|found| found.map(|(_, fragments)| fragments.to_vec())).collect::<Option<Vec<_>>>()
    };
    let all_of = exact.or_else(alias)?;
    Some(move |suite: &str| all_of.iter().all(|any_of| any_of.iter().any(|fragment| suite.contains(fragment))))
}
