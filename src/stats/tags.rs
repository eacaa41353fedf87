//! Tags: the parts of a stat's name that say which one of many it counts.
//!
//! Envoy's default tag extractors, as patterns over the dotted parts of a name: `*` is any part, `$` the part that is
//! the tag's value, and what follows the pattern does not matter. The order is that of Envoy's, and so of the labels.

use std::ops::Range;

use regex::Regex;

/// A stat's name without its tags, and these as labels.
#[derive(Debug, PartialEq)]
pub(super) struct Tagged<'a> {
    /// The parts of the name that are left.
    pub(super) parts: Vec<&'a str>,
    /// Label and value.
    pub(super) tags: Vec<(&'a str, &'a str)>,
}

/// What is a tag and what is a name (`envoy.config.metrics.v3.StatsConfig`).
#[derive(Clone, Debug, Default)]
pub struct Tagging {
    /// Envoy's own tags are not taken out unless they are named here.
    pub only_defaults: Option<Vec<String>>,
    /// The same labels for all stats.
    pub fixed: Vec<(String, String)>,
    /// Label and pattern: its first group is taken out of the name; the second one, or else the first, is the value.
    pub patterns: Vec<(String, Regex)>,
}

impl Tagging {
    pub(super) fn extract<'a>(&'a self, name: &'a str) -> Tagged<'a> {
        let fixed = &self.fixed;
        let mut tagged = match &self.only_defaults {
            None => extract(name, fixed, |_| true),
            Some(wanted) => extract(name, fixed, |label| {
                let short = label.strip_prefix("envoy_").unwrap_or(label);
                wanted.iter().any(|wanted| wanted == label || wanted.strip_prefix("envoy.") == Some(short))
            }),
        };
        for (label, pattern) in &self.patterns {
            let Some(found) = pattern.captures(name) else { continue };
            let Some(taken) = found.get(1) else { continue };
            tagged.tags.push((label, found.get(2).unwrap_or(taken).as_str()));
            cut(name, taken.range(), &mut tagged.parts);
        }
        tagged
    }
}

/// Takes a range of `name` out of its parts. One that is gone altogether leaves nothing.
fn cut<'a>(name: &'a str, range: Range<usize>, parts: &mut Vec<&'a str>) {
    let mut left = Vec::with_capacity(parts.len());
    for part in parts.drain(..) {
        // Some parts were put in place of what stood in the name, and have no place in it.
        let start = (part.as_ptr() as usize).wrapping_sub(name.as_ptr() as usize);
        let end = start.wrapping_add(part.len());
        if start >= end || end > name.len() {
            left.push(part);
            continue;
        }
        if range.end <= start || range.start >= end {
            left.push(part);
        } else {
            let pieces = [&name[start..range.start.clamp(start, end)], &name[range.end.clamp(start, end)..end]];
            left.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        }
    }
    *parts = left;
}

const PATTERNS: &[(&str, &str)] = &[
    ("envoy_grpc_bridge_method", "cluster.*.grpc.*.$."),
    ("envoy_http_user_agent", "http.*.user_agent.$."),
    ("envoy_virtual_cluster", "vhost.*.vcluster.$."),
    ("envoy_ssl_cipher", "listener.*.ssl.ciphers.$"),
    ("envoy_ssl_curve", "listener.*.ssl.curves.$"),
    ("envoy_ssl_sigalg", "listener.*.ssl.sigalgs.$"),
    ("envoy_ssl_version", "listener.*.ssl.versions.$"),
    ("cipher_suite", "cluster.*.ssl.ciphers.$"),
    ("envoy_ssl_curve", "cluster.*.ssl.curves.$"),
    ("envoy_ssl_sigalg", "cluster.*.ssl.sigalgs.$"),
    ("envoy_ssl_version", "cluster.*.ssl.versions.$"),
    ("envoy_grpc_bridge_service", "cluster.*.grpc.$."),
    ("envoy_tcp_prefix", "tcp.$."),
    ("envoy_udp_prefix", "udp.$."),
    ("envoy_clientssl_prefix", "auth.clientssl.$."),
    ("envoy_ratelimit_prefix", "ratelimit.$."),
    ("envoy_cluster_name", "cluster.$."),
    ("envoy_rbac_http_prefix", "http.*.rbac.$."),
    ("envoy_http_conn_manager_prefix", "listener.*.http.$."),
    ("envoy_http_conn_manager_prefix", "http.$."),
    ("envoy_listener_address", "listener.$."),
    ("envoy_virtual_host", "vhost.$."),
    ("envoy_rds_route_config", "http.*.rds.$."),
    ("envoy_route", "vhost.*.route.$."),
    ("envoy_local_http_ratelimit_prefix", "$.http_local_rate_limit."),
    ("envoy_local_network_ratelimit_prefix", "local_rate_limit.$."),
    ("envoy_local_listener_ratelimit_prefix", "listener_local_ratelimit.$."),
    ("envoy_connection_limit_prefix", "connection_limit.$."),
    ("envoy_rbac_prefix", "$.rbac."),
];

/// Takes those of Envoy's tags out of `name` that are wanted, and adds the fixed ones where Envoy has them.
fn extract<'a>(name: &'a str, fixed: &'a [(String, String)], wanted: impl Fn(&str) -> bool) -> Tagged<'a> {
    let mut parts = split(name);
    let mut tags = Vec::new();
    extract_response_code(&mut parts, &mut tags, &wanted);
    if wanted("envoy_worker_id") {
        extract_worker(&mut parts, &mut tags);
    }
    tags.extend(fixed.iter().map(|(label, value)| (label.as_str(), value.as_str())));
    let mut taken = Vec::new();
    for &(label, pattern) in PATTERNS {
        if wanted(label)
            && let Some(place) = find(pattern, &parts)
            && !taken.contains(&place)
        {
            taken.push(place);
            tags.push((label, parts[place]));
        }
    }
    taken.sort_unstable();
    for place in taken.into_iter().rev() {
        parts.remove(place);
    }
    Tagged { parts, tags }
}

/// The dotted parts of `name`. The IPv4 address of a listener and the version of TLS are one part in spite of their dots.
fn split(name: &str) -> Vec<&str> {
    if let Some((owner, version)) = name.split_once(".ssl.versions.") {
        return split(owner).into_iter().chain(["ssl", "versions", version]).collect();
    }
    let Some(rest) = name.strip_prefix("listener.") else {
        return name.split('.').collect();
    };
    let end = rest.find(|c: char| !matches!(c, '.' | '_' | '0'..='9')).unwrap_or(rest.len());
    let address = rest[..end].trim_end_matches('.');
    if !address.contains('.') {
        return name.split('.').collect();
    }
    ["listener", address].into_iter().chain(rest[address.len()..].split('.').skip(1)).collect()
}

/// `..._rq_200` and `..._rq_2xx`.
fn extract_response_code<'a>(
    parts: &mut Vec<&'a str>,
    tags: &mut Vec<(&'a str, &'a str)>,
    wanted: impl Fn(&str) -> bool,
) {
    let Some((base, code)) = parts.last().and_then(|part| part.rsplit_once('_')) else {
        return;
    };
    if !base.ends_with("_rq") || code.len() != 3 || !code.starts_with(|c: char| c.is_ascii_digit()) {
        return;
    }
    if code.ends_with("xx") && wanted("envoy_response_code_class") {
        // "upstream_rq" and "xx" are joined by an underscore as the parts of any name are.
        parts.pop();
        parts.extend([base, "xx"]);
        tags.push(("envoy_response_code_class", &code[..1]));
    } else if code.bytes().all(|byte| byte.is_ascii_digit()) && wanted("envoy_response_code") {
        parts.pop();
        parts.push(base);
        tags.push(("envoy_response_code", code));
    }
}

/// `listener.<address>.worker_0.downstream_cx_total`
fn extract_worker<'a>(parts: &mut [&'a str], tags: &mut Vec<(&'a str, &'a str)>) {
    if let [_, .., worker, _] = parts
        && let Some(index) = worker.strip_prefix("worker_")
        && index.bytes().all(|byte| byte.is_ascii_digit())
    {
        *worker = "worker";
        tags.push(("envoy_worker_id", index));
    }
}

/// The place of the tag, if `pattern` fits. A pattern that ends with a dot wants more parts to follow.
fn find(pattern: &str, parts: &[&str]) -> Option<usize> {
    let mut wanted = pattern.split('.');
    let mut place = None;
    for (index, part) in parts.iter().enumerate() {
        match wanted.next()? {
            "" => return place,
            "*" => {}
            // The admin listener has no address in its names.
            "$" if index == 1 && parts[..2] == ["listener", "admin"] => return None,
            "$" => place = Some(index),
            literal if literal == *part => {}
            _ => return None,
        }
    }
    if wanted.next().is_none() { place } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(name: &str) -> String {
        let Tagged { parts, tags } = extract(name, &[], |_| true);
        let tags: Vec<String> = tags.into_iter().map(|(label, value)| format!("{label}={value}")).collect();
        format!("{} {}", parts.join("_"), tags.join(","))
    }

    /// Read from Envoy 1.40's `/stats` and `/stats/prometheus`.
    #[test]
    fn tags_are_those_of_envoy() {
        for (name, expected) in [
            ("server.uptime", "server_uptime "),
            ("cluster.a.upstream_rq_total", "cluster_upstream_rq_total envoy_cluster_name=a"),
            ("cluster.a.b.c.bind_errors", "cluster_b_c_bind_errors envoy_cluster_name=a"),
            ("cluster.a.upstream_rq_503", "cluster_upstream_rq envoy_response_code=503,envoy_cluster_name=a"),
            ("cluster.a.upstream_rq_5xx", "cluster_upstream_rq_xx envoy_response_code_class=5,envoy_cluster_name=a"),
            ("cluster.a.upstream_rq_0rtt", "cluster_upstream_rq_0rtt envoy_cluster_name=a"),
            (
                "cluster.a.grpc.pkg.Svc.Method.total",
                "cluster_grpc_Method_total \
                 envoy_grpc_bridge_method=Svc,envoy_grpc_bridge_service=pkg,envoy_cluster_name=a",
            ),
            ("cluster.a.ssl.ciphers.TLS_A", "cluster_ssl_ciphers cipher_suite=TLS_A,envoy_cluster_name=a"),
            ("cluster.a.ssl.versions.TLSv1.2", "cluster_ssl_versions envoy_ssl_version=TLSv1.2,envoy_cluster_name=a"),
            ("http.h.downstream_cx_active", "http_downstream_cx_active envoy_http_conn_manager_prefix=h"),
            ("http.h.rbac.p.allowed", "http_rbac_allowed envoy_rbac_http_prefix=p,envoy_http_conn_manager_prefix=h"),
            ("http.h.rbac.shadow_allowed", "http_rbac_shadow_allowed envoy_http_conn_manager_prefix=h"),
            ("http.h.no_route", "http_no_route envoy_http_conn_manager_prefix=h"),
            (
                "listener.127.0.0.1_80.http.h.downstream_rq_2xx",
                "listener_http_downstream_rq_xx envoy_response_code_class=2,envoy_http_conn_manager_prefix=h,\
                 envoy_listener_address=127.0.0.1_80",
            ),
            (
                "listener.[__1]_80.worker_3.downstream_cx_total",
                "listener_worker_downstream_cx_total envoy_worker_id=3,envoy_listener_address=[__1]_80",
            ),
            (
                "listener.127.0.0.1_80.ssl.versions.TLSv1.3",
                "listener_ssl_versions envoy_ssl_version=TLSv1.3,envoy_listener_address=127.0.0.1_80",
            ),
            ("listener.foo.no_filter_chain_match", "listener_no_filter_chain_match envoy_listener_address=foo"),
            ("listener.admin.downstream_cx_total", "listener_admin_downstream_cx_total "),
            (
                "listener.admin.http.admin.downstream_rq_completed",
                "listener_admin_http_downstream_rq_completed envoy_http_conn_manager_prefix=admin",
            ),
            (
                "listener.0.0.0.0_443.ssl.curves.X25519",
                "listener_ssl_curves envoy_ssl_curve=X25519,envoy_listener_address=0.0.0.0_443",
            ),
            ("listener_manager.listener_added", "listener_manager_listener_added "),
            (
                "vhost.v.vcluster.c.upstream_rq_total",
                "vhost_vcluster_upstream_rq_total envoy_virtual_cluster=c,envoy_virtual_host=v",
            ),
            ("vhost.v.route.r.upstream_rq_total", "vhost_route_upstream_rq_total envoy_virtual_host=v,envoy_route=r"),
            ("tcp.t.idle_timeout", "tcp_idle_timeout envoy_tcp_prefix=t"),
            ("p.rbac.allowed", "rbac_allowed envoy_rbac_prefix=p"),
            ("p.http_local_rate_limit.ok", "http_local_rate_limit_ok envoy_local_http_ratelimit_prefix=p"),
            (
                "connection_limit.c.active_connections",
                "connection_limit_active_connections envoy_connection_limit_prefix=c",
            ),
        ] {
            assert_eq!(tagged(name), expected, "{name}");
        }
    }

    #[test]
    fn configured_tags_come_after_fixed_ones() {
        let tagging = |only_defaults| Tagging {
            only_defaults,
            fixed: vec![("zone".to_owned(), "z".to_owned())],
            patterns: vec![("my_cluster".to_owned(), Regex::new(r"^cluster\.((.+?)\.)upstream").unwrap())],
        };
        let tagged = |tagging: &Tagging, name: &str| {
            let Tagged { parts, tags } = tagging.extract(name);
            format!("{} {tags:?}", parts.join("_"))
        };
        let (own, all) = (tagging(Some(Vec::new())), tagging(None));
        assert_eq!(
            tagged(&own, "cluster.a.b.upstream_cx_total"),
            "cluster_upstream_cx_total [(\"zone\", \"z\"), (\"my_cluster\", \"a.b\")]"
        );
        assert_eq!(tagged(&own, "http.h.rq_total"), "http_h_rq_total [(\"zone\", \"z\")]");
        assert_eq!(
            tagged(&all, "cluster.a.upstream_rq_2xx"),
            "cluster_upstream_rq_xx [(\"envoy_response_code_class\", \"2\"), (\"zone\", \"z\"), (\"envoy_cluster_name\", \"a\"), \
             (\"my_cluster\", \"a\")]"
        );
        assert_eq!(
            tagged(&all, "cluster.a.upstream_cx_total"),
            "cluster_upstream_cx_total [(\"zone\", \"z\"), (\"envoy_cluster_name\", \"a\"), (\"my_cluster\", \"a\")]"
        );
        let one = tagging(Some(vec!["envoy.cluster_name".to_owned()]));
        assert_eq!(tagged(&one, "cluster.a.x"), "cluster_x [(\"zone\", \"z\"), (\"envoy_cluster_name\", \"a\")]");
    }
}
