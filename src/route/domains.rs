//! Which virtual host a request is for: exact domains, then suffix wildcards, then prefix wildcards, then `*`; of several
//! wildcards that fit, the longest.

use std::{borrow::Cow, collections::HashMap};

use http::{HeaderName, Request};

use super::rewrite::split_port;
use crate::{config::Field, http::authority, proto};

/// The domains of a route configuration.
#[derive(Debug, Default)]
pub(super) struct Domains {
    exact: HashMap<String, usize>,
    /// `*.example.com` as `.example.com`.
    suffixes: Wildcards,
    /// `example.*` as `example.`.
    prefixes: Wildcards,
    any: Option<usize>,
    ignore_port: bool,
    /// `vhost_header`: names the domain in place of the authority.
    header: Option<HeaderName>,
}

/// The fixed part of wildcards, by length, the longest first.
#[derive(Debug, Default)]
struct Wildcards(Vec<(usize, HashMap<String, usize>)>);

impl Domains {
    /// Reads the domains of all virtual hosts; a domain may stand only once.
    pub(super) fn from_proto(protos: &[proto::route::VirtualHost], field: Field<'_>) -> Domains {
        let mut domains = Domains::default();
        // Where a domain stood first.
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        for (virtual_host, proto) in protos.iter().enumerate() {
            let host_field = field.index(virtual_host);
            let list = host_field.key("domains");
            for (i, domain) in proto.domains.iter().enumerate() {
                let domain = domain.to_ascii_lowercase();
                if let Some((host, place)) = places.get(&domain) {
                    let first = format!("virtual_hosts[{host}].domains[{place}]");
                    list.index(i).error(format!("only unique domains are permitted: {domain:?} is {first} already"));
                } else {
                    places.insert(domain.clone(), (virtual_host, i));
                    domains.insert(domain, virtual_host);
                }
            }
        }
        domains.suffixes.sort();
        domains.prefixes.sort();
        domains
    }

    /// As `ignore_port_in_host_matching` says.
    pub(super) fn ignoring_port(self, ignore_port: bool) -> Domains {
        Domains { ignore_port, ..self }
    }

    /// As `vhost_header` says.
    pub(super) fn named_by(self, header: Option<HeaderName>) -> Domains {
        Domains { header, ..self }
    }

    fn insert(&mut self, domain: String, virtual_host: usize) {
        if domain == "*" {
            self.any = Some(virtual_host);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.insert(suffix, virtual_host);
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.insert(prefix, virtual_host);
        } else {
            self.exact.insert(domain, virtual_host);
        }
    }

    /// The index of the virtual host for a request.
    pub(super) fn find<B>(&self, request: &Request<B>) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.0.is_empty() && self.prefixes.0.is_empty() {
            return self.any;
        }
        match &self.header {
            None => self.of_name(authority(request).unwrap_or_default()),
            // Without the header there is no telling, not even by `*`.
            Some(header) => self.of_name(request.headers().get(header)?.to_str().ok()?),
        }
    }

    fn of_name(&self, authority: &str) -> Option<usize> {
        let host = if self.ignore_port { split_port(authority).map_or(authority, |(host, _)| host) } else { authority };
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let exact = self.exact.get(host.as_ref()).copied();
        let suffix = || self.suffixes.find(host.len(), |length| host.get(host.len() - length..));
        let prefix = || self.prefixes.find(host.len(), |length| host.get(..length));
        exact.or_else(suffix).or_else(prefix).or(self.any)
    }
}

impl Wildcards {
    fn insert(&mut self, part: &str, virtual_host: usize) {
        let at = self.0.iter().position(|(length, _)| *length == part.len()).unwrap_or_else(|| {
            self.0.push((part.len(), HashMap::new()));
            self.0.len() - 1
        });
        self.0[at].1.insert(part.to_owned(), virtual_host);
    }

    fn sort(&mut self) {
        self.0.sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
    }

    /// The longest wildcard that fits; the star stands for at least one character.
    fn find<'a>(&self, host_length: usize, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let mut fitting = self.0.iter().filter(|(length, _)| *length < host_length);
        fitting.find_map(|(length, hosts)| hosts.get(part(*length)?).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    const HOSTS: [(&str, &[&str]); 9] = [
        ("exact", &["example.com", "Foo.COM"]),
        ("suffix", &["*.example.com"]),
        ("suffix2", &["*.b.example.com", "*-x.com"]),
        ("prefix", &["example.*"]),
        ("prefix2", &["example.org.*", "api.*"]),
        ("port", &["example.com:8080"]),
        ("bar", &["*bar.com"]),
        ("v6", &["[::1]", "[::2]:*"]),
        ("any", &["*"]),
    ];

    fn protos(hosts: &[(&str, &[&str])]) -> Vec<proto::route::VirtualHost> {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        hosts
            .iter()
            .map(|(name, domains)| proto::route::VirtualHost {
                name: (*name).to_owned(),
                domains: strings(domains),
                ..Default::default()
            })
            .collect()
    }

    fn find(ignore_port: bool, hosts: &[(&'static str, &[&str])], authority: &str) -> Option<&'static str> {
        let report = Report::new();
        let domains = Domains::from_proto(&protos(hosts), Field::root(&report)).ignoring_port(ignore_port);
        assert!(!report.has_errors());
        domains.of_name(authority).map(|host| hosts[host].0)
    }

    /// The answers were taken from Envoy 1.40.
    #[test]
    fn search_order() {
        for (authority, expected, ignoring_port) in [
            ("example.com", "exact", "exact"),
            ("Example.COM", "exact", "exact"),
            ("foo.com", "exact", "exact"),
            ("a.example.com", "suffix", "suffix"),
            ("a.b.example.com", "suffix2", "suffix2"),
            (".example.com", "any", "any"),
            ("a-x.com", "suffix2", "suffix2"),
            ("-x.com", "any", "any"),
            ("example.net", "prefix", "prefix"),
            ("example.org.uk", "prefix2", "prefix2"),
            ("example.", "any", "any"),
            ("api.x", "prefix2", "prefix2"),
            ("example.com:8080", "port", "exact"),
            ("example.com:80", "prefix", "exact"),
            ("a.example.com:80", "any", "suffix"),
            ("foobar.com", "bar", "bar"),
            ("bar.com", "any", "any"),
            ("[::1]", "v6", "v6"),
            ("[::1]:80", "any", "v6"),
            ("[::2]:80", "v6", "any"),
            ("", "any", "any"),
        ] {
            assert_eq!(find(false, &HOSTS, authority), Some(expected), "{authority}");
            assert_eq!(find(true, &HOSTS, authority), Some(ignoring_port), "{authority} ignoring the port");
        }
        assert_eq!(find(false, &HOSTS[..1], "other"), None);
        assert_eq!(find(false, &HOSTS[8..], "other"), Some("any"));
    }

    #[test]
    fn a_domain_stands_once() {
        let report = Report::new();
        let hosts = protos(&[("a", &["x.com", "*"]), ("b", &["y.com", "X.com"]), ("c", &["*"])]);
        Domains::from_proto(&hosts, Field::root(&report).key("virtual_hosts"));
        let problems: Vec<_> = report.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "virtual_hosts[1].domains[1]: only unique domains are permitted: \"x.com\" is virtual_hosts[0].domains[0] already",
                "virtual_hosts[2].domains[0]: only unique domains are permitted: \"*\" is virtual_hosts[0].domains[1] already",
            ]
        );
    }
}
