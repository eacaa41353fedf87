//! The routes of registered workers: an immutable table that registration replaces as registrants come and go.
//!
//! A route in YAML whose cluster specifier plugin is `portreeve.registration.v1.RegisteredRoutes` matches if a registered
//! route matches too; timeouts, header mutations and upgrades are those of the YAML route.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use http::{HeaderName, Request};

/// What selects a registered route.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RouteKey {
    /// A request header, its name in lower case, with exactly this value. Preferred over any prefix.
    Header(Arc<str>, Arc<str>),
    /// A path prefix of whole segments: `/`, or a path without a slash at its end. The longest one wins.
    Prefix(Arc<str>),
}

/// One route of one registration.
#[derive(Clone, Debug)]
pub struct RegisteredRoute {
    /// The cluster that the registration founded or joined.
    pub cluster: Arc<str>,
    /// Replaces the matched prefix: `/` cuts it off. None leaves the path as it is.
    pub prefix_rewrite: Option<Arc<str>>,
    /// False while the registrant drains or after its lease has ended: the route still matches and is answered with 503.
    pub available: bool,
}

/// All registered routes. Replacing some yields a new table that shares what did not change with the old one: a table is a
/// fixed number of small immutable buckets, of which a change copies one each.
#[derive(Clone, Debug)]
pub struct RegisteredRoutes {
    buckets: Vec<Arc<Vec<Entry>>>,
    hasher: RandomState,
    /// The headers by which routes are registered, and how many routes are by each.
    headers: Vec<(HeaderName, usize)>,
    /// No registered prefix is longer.
    longest_prefix: usize,
    len: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    hash: u64,
    key: RouteKey,
    route: RegisteredRoute,
}

/// Where a route stands in its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    bucket: usize,
    entry: usize,
}

/// With 50,000 routes a bucket holds some fifty.
const BUCKETS: usize = 1024;

impl Default for RegisteredRoutes {
    fn default() -> RegisteredRoutes {
        RegisteredRoutes {
            buckets: vec![Arc::default(); BUCKETS],
            hasher: RandomState::new(),
            headers: Vec::new(),
            longest_prefix: 0,
            len: 0,
        }
    }
}

impl RegisteredRoutes {
    /// The route registered under exactly this key.
    #[must_use]
    pub fn get(&self, key: &RouteKey) -> Option<&RegisteredRoute> {
        let position = match key {
            RouteKey::Header(name, value) => self.position_of_header(name, value.as_bytes()),
            RouteKey::Prefix(prefix) => self.position_of_prefix(prefix),
        };
        position.map(|position| &self.entry(position).route)
    }

    /// This table with some routes set (`Some`) or removed (`None`).
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (RouteKey, Option<RegisteredRoute>)>) -> RegisteredRoutes {
        let mut table = self.clone();
        for (key, route) in changes {
            table.change(key, route);
        }
        table
    }

    fn change(&mut self, key: RouteKey, route: Option<RegisteredRoute>) {
        let hash = self.hash(&key);
        let bucket = Arc::make_mut(&mut self.buckets[bucket_of(hash)]);
        let place = bucket.iter().position(|entry| entry.hash == hash && entry.key == key);
        match (place, route) {
            (Some(place), Some(route)) => bucket[place].route = route,
            (Some(place), None) => {
                bucket.remove(place);
                self.len -= 1;
                self.forget(&key);
            }
            (None, Some(route)) => {
                let place = bucket.partition_point(|entry| entry.hash < hash);
                bucket.insert(place, Entry { hash, key: key.clone(), route });
                self.len += 1;
                self.remember(key);
            }
            (None, None) => {}
        }
    }

    fn remember(&mut self, key: RouteKey) {
        match key {
            RouteKey::Header(name, _) => match self.headers.iter_mut().find(|(known, _)| *known == *name) {
                Some((_, count)) => *count += 1,
                // A name that is none selects nothing.
                None => self.headers.extend(HeaderName::from_bytes(name.as_bytes()).map(|name| (name, 1))),
            },
            // Stays when the prefix goes: too long a length costs a lookup, nothing else.
            RouteKey::Prefix(prefix) => self.longest_prefix = self.longest_prefix.max(prefix.len()),
        }
    }

    fn forget(&mut self, key: &RouteKey) {
        if let RouteKey::Header(name, _) = key {
            self.headers.retain_mut(|(known, count)| {
                *count -= usize::from(*known == **name);
                *count > 0
            });
        }
    }

    /// How many routes are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The route for a request: by a header if it has one that selects a route, else by the longest prefix of its path. An empty
    /// header selects nothing.
    pub(super) fn find<B>(&self, request: &Request<B>, path: &str) -> Option<Position> {
        let by_header = self.headers.iter().find_map(|(name, _)| {
            let value = request.headers().get(name).filter(|value| !value.is_empty())?;
            self.position_of_header(name.as_str(), value.as_bytes())
        });
        by_header.or_else(|| self.longest_prefix_of(path))
    }

    fn longest_prefix_of(&self, path: &str) -> Option<Position> {
        let mut prefix = path;
        loop {
            if prefix.len() <= self.longest_prefix
                && let Some(position) = self.position_of_prefix(prefix)
            {
                return Some(position);
            }
            prefix = match prefix.rfind('/')? {
                0 if prefix.len() > 1 => "/",
                0 => return None,
                slash => &prefix[..slash],
            };
        }
    }

    fn position_of_header(&self, name: &str, value: &[u8]) -> Option<Position> {
        let same = |key: &RouteKey| matches!(key, RouteKey::Header(n, v) if **n == *name && v.as_bytes() == value);
        self.position(self.hash_header(name, value), same)
    }

    fn position_of_prefix(&self, prefix: &str) -> Option<Position> {
        self.position(self.hash_prefix(prefix), |key| matches!(key, RouteKey::Prefix(p) if **p == *prefix))
    }

    fn position(&self, hash: u64, same: impl Fn(&RouteKey) -> bool) -> Option<Position> {
        let bucket = bucket_of(hash);
        let entries = &self.buckets[bucket];
        let first = entries.partition_point(|entry| entry.hash < hash);
        let equal = entries[first..].iter().take_while(|entry| entry.hash == hash);
        let offset = equal.map(|entry| &entry.key).position(same)?;
        Some(Position { bucket, entry: first + offset })
    }

    fn entry(&self, position: Position) -> &Entry {
        &self.buckets[position.bucket][position.entry]
    }

    pub(super) fn key(&self, position: Position) -> &RouteKey {
        &self.entry(position).key
    }

    pub(super) fn route(&self, position: Position) -> &RegisteredRoute {
        &self.entry(position).route
    }

    /// How many bytes of a path the route at `position` has matched, and what replaces them.
    pub(super) fn rewrite(&self, position: Position) -> Option<(usize, &str)> {
        let Entry { key, route, .. } = self.entry(position);
        match key {
            RouteKey::Prefix(prefix) => Some((prefix.trim_end_matches('/').len(), route.prefix_rewrite.as_deref()?)),
            RouteKey::Header(..) => None,
        }
    }

    fn hash(&self, key: &RouteKey) -> u64 {
        match key {
            RouteKey::Header(name, value) => self.hash_header(name, value.as_bytes()),
            RouteKey::Prefix(prefix) => self.hash_prefix(prefix),
        }
    }

    fn hash_header(&self, name: &str, value: &[u8]) -> u64 {
        self.hasher.hash_one((name, value))
    }

    fn hash_prefix(&self, prefix: &str) -> u64 {
        self.hasher.hash_one(prefix)
    }
}

fn bucket_of(hash: u64) -> usize {
    let [low, high, ..] = hash.to_le_bytes();
    usize::from(u16::from_le_bytes([low, high])) % BUCKETS
}
