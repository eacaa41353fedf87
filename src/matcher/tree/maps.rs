//! Maps of matcher trees whose keys are not compared as they stand: ranges of addresses (`xds.type.matcher.v3.IPMatcher`) and
//! domains (`xds.type.matcher.v3.ServerNameMatcher`).
//!
//! Both answer with all that holds, the most specific first, because what stands there may lead nowhere.

use std::{collections::HashMap, net::IpAddr};

use crate::{config::Field, matcher::CidrRange};

/// Ranges of addresses, with what follows for each.
#[derive(Debug)]
pub(super) struct AddressMap<T> {
    /// By length, the longest first; of one range, in the order of declaration.
    by_length: Vec<(u8, HashMap<CidrRange, Vec<Listed>>)>,
    values: Vec<T>,
}

/// One of the values that a range leads to.
#[derive(Debug)]
struct Listed {
    value: usize,
    /// Whether it holds only where no longer range holds the address.
    exclusive: bool,
}

impl<T> Default for AddressMap<T> {
    fn default() -> AddressMap<T> {
        AddressMap { by_length: Vec::new(), values: Vec::new() }
    }
}

impl<T> AddressMap<T> {
    /// Adds the ranges that lead to a value.
    pub(super) fn insert(&mut self, ranges: impl IntoIterator<Item = CidrRange>, exclusive: bool, value: T) {
        for range in ranges {
            let at = self.by_length.partition_point(|(length, _)| *length > range.length());
            if self.by_length.get(at).is_none_or(|(length, _)| *length != range.length()) {
                self.by_length.insert(at, (range.length(), HashMap::new()));
            }
            let listed = Listed { value: self.values.len(), exclusive };
            self.by_length[at].1.entry(range).or_default().push(listed);
        }
        self.values.push(value);
    }

    /// What an address leads to.
    pub(super) fn find(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let ranges = self.by_length.iter().filter_map(move |(length, map)| map.get(&CidrRange::new(address, *length)?));
        let listed = ranges.flatten().enumerate().filter(|(rank, listed)| *rank == 0 || !listed.exclusive);
        listed.map(|(_, listed)| &self.values[listed.value])
    }
}

/// Domains, with what follows for each.
#[derive(Debug)]
pub(super) struct DomainMap<T> {
    exact: HashMap<Box<[u8]>, usize>,
    /// Without the `*.` before them.
    suffixes: HashMap<Box<[u8]>, usize>,
    /// `*`
    any: Option<usize>,
    values: Vec<T>,
}

impl<T> Default for DomainMap<T> {
    fn default() -> DomainMap<T> {
        DomainMap { exact: HashMap::new(), suffixes: HashMap::new(), any: None, values: Vec::new() }
    }
}

impl<T> DomainMap<T> {
    /// Adds the domains that lead to a value; what is wrong with one is reported.
    pub(super) fn insert(&mut self, domains: &[String], value: T, field: Field<'_>) {
        let number = self.values.len();
        for (i, domain) in domains.iter().enumerate() {
            if let Err(problem) = self.insert_one(domain, number) {
                field.index(i).error(problem);
            }
        }
        self.values.push(value);
    }

    fn insert_one(&mut self, domain: &str, value: usize) -> Result<(), String> {
        let known = match domain.strip_prefix("*.") {
            _ if domain.is_empty() => return Err("Empty domain in ServerNameMatcher".to_owned()),
            _ if domain == "*" => self.any.replace(value),
            Some(suffix) if suffix.contains('*') => {
                return Err(format!("Invalid wildcard domain format: {domain}. Multiple wildcards are not supported"));
            }
            Some(suffix) if !suffix.is_empty() => self.suffixes.insert(suffix.as_bytes().into(), value),
            _ if domain.contains('*') => {
                let rule = "Only '*' and '*.domain' patterns are supported";
                return Err(format!("Invalid wildcard domain format: {domain}. {rule}"));
            }
            _ => self.exact.insert(domain.as_bytes().into(), value),
        };
        match known {
            Some(_) => Err(format!("Duplicate domain in ServerNameMatcher: {domain}")),
            None => Ok(()),
        }
    }

    /// What a name leads to. An empty one is none.
    pub(super) fn find(&self, name: &[u8]) -> impl Iterator<Item = &T> {
        let suffixes = memchr::memchr_iter(b'.', name).filter_map(|dot| self.suffixes.get(&name[dot + 1..]));
        let found = self.exact.get(name).into_iter().chain(suffixes).chain(self.any.as_ref());
        found.filter(|_| !name.is_empty()).map(|value| &self.values[*value])
    }
}
