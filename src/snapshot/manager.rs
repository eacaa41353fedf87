//! The manager of the one door: applies changes to the snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use crate::access_log::{Mode, Sinks};
use crate::config::{Field, Report};
use crate::filter::{DEFAULT_BUFFER_LIMIT, FactoryContext, Services};
use crate::listener::Listener;
use crate::net::{Address, ConnectionLimit};
use crate::proto;
use crate::proto::bootstrap::bootstrap::StaticResources;
use crate::runtime::{Runtime, RuntimeStats};
use crate::stats::Registry;
use crate::tls::{Renewal, RenewalStats, SecretCounts, Secrets, TicketKeys, WatchedFiles};
use crate::upstream::{BindConfig, ClusterEntry};
use crate::{http_filters, network_filters};

use super::{Bootstrap, Change, Rejected, Snapshot};

/// Owns what is configured. One for each process, on the main thread.
#[derive(Debug)]
pub struct ConfigManager {
    stats: Arc<Registry>,
    access_logs: Sinks,
    services: Services,
    ticket_keys: Arc<TicketKeys>,
    /// How many connections there may be where the bootstrap does not say.
    connection_limit: Option<Arc<ConnectionLimit>>,
    /// What came from the document, without registrations.
    configured: HashMap<Arc<str>, ClusterEntry>,
    /// What TLS and the runtime are made of, as it was when it was last looked at.
    files: WatchedFiles,
    renewals: RenewalStats,
    secret_counts: Rc<SecretCounts>,
    runtime_stats: RuntimeStats,
    current: Arc<Snapshot>,
}

impl ConfigManager {
    /// Nothing is configured yet.
    #[must_use]
    pub fn new(stats: Arc<Registry>, access_logs: Mode, services: Services) -> ConfigManager {
        let access_logs = Sinks::new(access_logs, &stats.scope(""));
        let renewals = RenewalStats::new(&stats.scope("certificates"));
        let secret_counts = Rc::new(SecretCounts::new(&stats.scope("")));
        let runtime_stats = RuntimeStats::new(&stats.scope("runtime"));
        let current = Snapshot {
            version: 0,
            bootstrap: Arc::default(),
            listeners: BTreeMap::new(),
            clusters: Arc::default(),
            registered: Arc::default(),
            runtime: Arc::default(),
            proto: Arc::default(),
            loaded: SystemTime::now(),
        };
        ConfigManager {
            stats,
            access_logs,
            services,
            ticket_keys: Arc::default(),
            connection_limit: ConnectionLimit::of_descriptors(),
            configured: HashMap::new(),
            files: WatchedFiles::default(),
            renewals,
            secret_counts,
            runtime_stats,
            current: Arc::new(current),
        }
    }

    /// Where statistics are made.
    #[must_use]
    pub fn stats(&self) -> &Arc<Registry> {
        &self.stats
    }

    /// The destinations of access logs.
    #[must_use]
    pub fn access_logs(&self) -> &Sinks {
        &self.access_logs
    }

    /// The session ticket keys of the process.
    #[must_use]
    pub fn ticket_keys(&self) -> &Arc<TicketKeys> {
        &self.ticket_keys
    }

    /// The files to watch: when one changes, there is a [`Change::Files`].
    #[must_use]
    pub fn files(&self) -> &WatchedFiles {
        &self.files
    }

    /// What is configured now.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Goes one step on, or stays where it is.
    ///
    /// # Errors
    /// A document with errors, which stand in the report that came with it.
    pub fn apply(&mut self, change: Change<'_>) -> Result<Arc<Snapshot>, Rejected> {
        let mut next = Snapshot { version: self.current.version + 1, ..(*self.current).clone() };
        match change {
            Change::Bootstrap(proto, report) => self.load(*proto, report, &mut next)?,
            Change::Hosts { cluster, hosts } => {
                // A cluster that has gone meanwhile needs no hosts.
                if let Some(entry) = self.configured.get_mut(&cluster) {
                    *entry = entry.with_hosts(hosts);
                    Arc::make_mut(&mut next.clusters).insert(cluster, entry.clone());
                }
            }
            Change::Files => self.renew(&mut next),
            Change::Registrations { clusters, routes } => {
                let mut all = clusters;
                for entry in all.values_mut() {
                    entry.borrow_sockets(&self.configured);
                }
                // A configured cluster keeps its name.
                all.extend(self.configured.iter().map(|(name, entry)| (Arc::clone(name), entry.clone())));
                next.clusters = Arc::new(all);
                next.registered = routes;
            }
            Change::Runtime(values) => {
                let changes = values.iter().map(|(key, text)| (key.as_str(), text.as_str()));
                let modified = self.current.runtime.modified(changes).ok_or(Rejected)?;
                next.runtime = Arc::new(modified);
                self.runtime_stats.record(&next.runtime);
            }
        }
        self.current = Arc::new(next);
        Ok(Arc::clone(&self.current))
    }

    /// Converts a document. Everything is converted even after the first error, so that all errors are reported. What is the same as in
    /// the document before keeps its `Arc`.
    fn load(
        &mut self,
        proto: proto::bootstrap::Bootstrap,
        report: &Report,
        next: &mut Snapshot,
    ) -> Result<(), Rejected> {
        let root = Field::root(report);
        let field = root.key("static_resources");
        let resources = proto.static_resources.clone().unwrap_or_default();
        let before = Arc::clone(&self.current.proto);
        let same_surroundings = before.layered_runtime == proto.layered_runtime
            && before.overload_manager == proto.overload_manager
            && before.cluster_manager == proto.cluster_manager;
        let before =
            before.static_resources.as_ref().filter(|before| same_surroundings && before.secrets == resources.secrets);

        let layers = proto.layered_runtime.clone().unwrap_or_default();
        let service_cluster = proto.node.as_ref().map(|node| node.cluster.as_str()).unwrap_or_default();
        let runtime = Runtime::from_proto(&layers, service_cluster, root.key("layered_runtime"));
        let mut bootstrap = Bootstrap::from_proto(&proto, root);
        let limits = &mut bootstrap.connection_limits;
        limits.global = limits.global.take().or_else(|| self.connection_limit.clone());
        let secrets = Secrets::from_proto(&resources.secrets, field.key("secrets"));
        let secrets = secrets.with_ticket_keys(&self.ticket_keys).with_counts(&self.secret_counts);
        let sources = bootstrap.upstream_bind_config.as_ref();
        let clusters = self.clusters(&resources, before, field.key("clusters"), &secrets, sources);
        let cx = FactoryContext {
            listener_stats: None,
            stats: &self.stats,
            network_filters: network_filters::FACTORIES,
            http_filters: http_filters::FACTORIES,
            filter_settings: http_filters::SETTINGS,
            http_stats: None,
            services: &self.services,
            secrets: &secrets,
            cluster_names: &resources.clusters.iter().map(|cluster| cluster.name.as_str().into()).collect(),
            connection_limits: &bootstrap.connection_limits,
            access_logs: &self.access_logs,
            service_cluster,
            service_node: proto.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default(),
            buffer_limit: DEFAULT_BUFFER_LIMIT,
        };
        let listeners =
            self.listeners(&resources, before, field.key("listeners"), &cx, !proto.bootstrap_extensions.is_empty());
        if report.has_errors() {
            return Err(Rejected);
        }

        self.configured = clusters;
        next.clusters = Arc::new(self.configured.clone());
        next.listeners = listeners;
        next.bootstrap = Arc::new(bootstrap);
        next.runtime = Arc::new(runtime.with_admin_values_of(&self.current.runtime));
        self.files = next.files();
        self.runtime_stats.record(&next.runtime);
        next.proto = Arc::new(proto);
        next.loaded = SystemTime::now();
        Ok(())
    }

    /// Puts what changed files hold in the place of what they held, wherever it is acceptable. Who listens goes on listening.
    fn renew(&mut self, next: &mut Snapshot) {
        if let Some(runtime) = next.runtime.read_again() {
            next.runtime = Arc::new(runtime);
            self.runtime_stats.record(&next.runtime);
        }
        let changed = self.files.look_again();
        if changed.is_empty() {
            return;
        }
        let secrets = next.proto.static_resources.as_ref().map(|resources| resources.secrets.as_slice());
        let renewal =
            Renewal::new(changed, secrets.unwrap_or_default(), &self.ticket_keys, &self.secret_counts, &self.renewals);
        for listener in next.listeners.values_mut() {
            if let Some(renewed) = listener.renewed(&renewal) {
                *listener = Arc::new(renewed);
            }
        }
        for entry in self.configured.values_mut() {
            if let Some(renewed) = entry.renewed(&renewal) {
                *entry = renewed;
            }
        }
        let clusters = Arc::make_mut(&mut next.clusters);
        clusters.extend(self.configured.iter().map(|(name, entry)| (Arc::clone(name), entry.clone())));
        for entry in clusters.values_mut() {
            entry.borrow_sockets(&self.configured);
        }
        // Files that were refused, or that nothing names any more, are watched as long as the configuration is the same.
        self.files.extend(&renewal.files());
    }

    fn clusters(
        &self,
        now: &StaticResources,
        before: Option<&StaticResources>,
        field: Field<'_>,
        secrets: &Secrets,
        sources: Option<&Arc<BindConfig>>,
    ) -> HashMap<Arc<str>, ClusterEntry> {
        let before: HashMap<_, _> =
            before.into_iter().flat_map(|before| &before.clusters).map(|proto| (&proto.name, proto)).collect();
        let mut names = HashSet::with_capacity(now.clusters.len());
        let mut clusters = HashMap::with_capacity(now.clusters.len());
        for (i, proto) in now.clusters.iter().enumerate() {
            let field = field.index(i);
            if !names.insert(proto.name.as_str()) {
                field.key("name").error(format!("another cluster is named {:?}, too", proto.name));
            }
            let entry = match self.configured.get(proto.name.as_str()) {
                Some(entry) if before.get(&proto.name) == Some(&proto) => Some(entry.clone()),
                _ => ClusterEntry::from_proto(proto, field, secrets, &self.stats, sources),
            };
            clusters.extend(entry.map(|entry| (Arc::clone(&entry.cluster.name), entry)));
        }
        clusters
    }

    fn listeners(
        &self,
        now: &StaticResources,
        before: Option<&StaticResources>,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        has_internal_listeners: bool,
    ) -> BTreeMap<String, Arc<Listener>> {
        let before: HashMap<_, _> =
            before.into_iter().flat_map(|before| &before.listeners).map(|proto| (&proto.name, proto)).collect();
        let mut listeners: BTreeMap<String, Arc<Listener>> = BTreeMap::new();
        for (i, proto) in now.listeners.iter().enumerate() {
            let field = field.index(i);
            let listener = match self.current.listeners.get(&proto.name) {
                Some(listener) if before.get(&proto.name) == Some(&proto) => Some(Arc::clone(listener)),
                _ => Listener::from_proto(proto, field, cx).map(Arc::new),
            };
            let Some(listener) = listener else { continue };
            if !has_internal_listeners && matches!(listener.addresses[0].address, Address::Internal { .. }) {
                let extension = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
                field.key("internal_listener").error(format!("needs {extension} among bootstrap_extensions"));
            }
            if listeners.contains_key(&*listener.name) {
                field.key("name").error(format!("another listener is named {:?}, too", listener.name));
            }
            let fixed =
                listener.addresses.iter().map(|listen| &listen.address).filter(|address| address.port() != Some(0));
            for address in fixed {
                let others =
                    listeners.values().find(|other| other.addresses.iter().any(|listen| listen.address == *address));
                if let Some(other) = others {
                    field.key("address").error(format!("listener {:?} is at {address} already", other.name));
                }
            }
            listeners.entry(listener.name.to_string()).or_insert(listener);
        }
        listeners
    }
}

#[cfg(test)]
mod tests {
    use crate::access_log::Mode;
    use crate::config::{self, Source};
    use crate::upstream::HostSet;

    use super::*;

    fn manager() -> ConfigManager {
        ConfigManager::new(Registry::new(1), Mode::Check, Services::default())
    }

    fn cluster(name: &str, port: u16) -> String {
        format!(
            "{{ name: {name}, connect_timeout: 1s, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [
               {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }} }}"
        )
    }

    fn listener(name: &str, port: u16, cluster: &str) -> String {
        format!(
            "{{ name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, filter_chains: [ {{ filters: [
               {{ name: hcm, typed_config: {{
                 \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
                 stat_prefix: x, route_config: {{ name: r, virtual_hosts: [ {{ name: v, domains: ['*'], routes: [
                   {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ] }} ] }},
                 http_filters: [ {{ name: router, typed_config: {{
                   \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }} ] }}"
        )
    }

    fn load(
        manager: &mut ConfigManager,
        listeners: &[String],
        clusters: &[String],
    ) -> Result<Arc<Snapshot>, Vec<String>> {
        let text =
            format!("static_resources: {{ listeners: [{}], clusters: [{}] }}", listeners.join(","), clusters.join(","));
        let report = Report::new();
        let proto = config::load(&Source::new("test", text), &report).unwrap();
        manager
            .apply(Change::Bootstrap(Box::new(proto), &report))
            .map_err(|Rejected| report.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_did_not_change_keeps_its_arc() {
        let mut manager = manager();
        let clusters = [cluster("a", 1), cluster("b", 2)];
        let first = load(&mut manager, &[listener("l", 1, "a"), listener("m", 2, "a")], &clusters).unwrap();
        let clusters = [cluster("a", 1), cluster("b", 3)];
        let second = load(&mut manager, &[listener("l", 1, "a"), listener("m", 2, "b")], &clusters).unwrap();
        assert!(Arc::ptr_eq(&first.listeners["l"], &second.listeners["l"]));
        assert!(!Arc::ptr_eq(&first.listeners["m"], &second.listeners["m"]));
        assert!(Arc::ptr_eq(&first.clusters["a"].cluster, &second.clusters["a"].cluster));
        assert!(!Arc::ptr_eq(&first.clusters["b"].cluster, &second.clusters["b"].cluster));
        assert_eq!(second.version, first.version + 1);
    }

    #[test]
    fn a_rejected_document_changes_nothing_and_names_every_error() {
        let mut manager = manager();
        let before = load(&mut manager, &[listener("l", 1, "a")], &[cluster("a", 1)]).unwrap();
        let listeners = [listener("l", 1, "a"), listener("l", 2, "nowhere"), listener("m", 1, "a")];
        let problems = load(&mut manager, &listeners, &[cluster("a", 1), cluster("a", 2)]).unwrap_err();
        for expected in [
            "clusters[1].name: another cluster is named \"a\", too",
            "listeners[1].name: another listener is named \"l\", too",
            "listeners[2].address: listener \"l\" is at 127.0.0.1:1 already",
            "nowhere",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(expected)), "no {expected:?} in {problems:#?}");
        }
        assert!(Arc::ptr_eq(manager.snapshot(), &before));
    }

    #[test]
    fn hosts_and_registrations_leave_the_rest_alone() {
        let mut manager = manager();
        let before = load(&mut manager, &[listener("l", 1, "a")], &[cluster("a", 1)]).unwrap();
        let hosts = Arc::new(HostSet::default());
        let change = Change::Hosts { cluster: "a".into(), hosts: Arc::clone(&hosts) };
        let after = manager.apply(change).unwrap();
        assert!(Arc::ptr_eq(&after.clusters["a"].hosts, &hosts));
        assert!(Arc::ptr_eq(&after.clusters["a"].cluster, &before.clusters["a"].cluster));

        let registered = after.clusters["a"].clone();
        let clusters = [("worker".into(), registered.clone()), ("a".into(), before.clusters["a"].clone())].into();
        let with = manager.apply(Change::Registrations { clusters, routes: Arc::default() }).unwrap();
        assert!(with.clusters.contains_key("worker"));
        assert!(Arc::ptr_eq(&with.clusters["a"].hosts, &hosts), "a configured cluster keeps its name");
        let without =
            manager.apply(Change::Registrations { clusters: HashMap::new(), routes: Arc::default() }).unwrap();
        assert_eq!(without.clusters.len(), 1);
        assert!(Arc::ptr_eq(&without.listeners["l"], &before.listeners["l"]));
    }
}
