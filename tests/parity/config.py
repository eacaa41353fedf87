"""From the shortcuts of a case file to a whole bootstrap: what a file leaves out is here."""

import copy

ACCESS_LOG = (
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% "
    "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% route=%ROUTE_NAME% cluster=%UPSTREAM_CLUSTER% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    "received=%BYTES_RECEIVED% sent=%BYTES_SENT%\n"
)
TYPE = "type.googleapis.com/envoy.extensions."
SHORTCUTS = {"tcp_proxy", "network_filters", "routes", "virtual_hosts", "route_config", "hcm", "listener", "filter_chain", "clusters", "bootstrap", "tls"}


def bootstrap(file):
    """The bootstrap of a file, with placeholders such as @PORT@ still in it."""
    routes = file.get("routes", [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}])
    virtual_hosts = file.get("virtual_hosts", [{"name": "all", "domains": ["*"], "routes": routes}])
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "delayed_close_timeout": "0.05s",
        "generate_request_id": False,
        "route_config": merged({"name": "routes", "virtual_hosts": virtual_hosts}, file.get("route_config", {})),
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}],
        "access_log": [access_log()],
    }
    manager = merged(manager, file.get("hcm", {}))
    if any(key in file.get("hcm", {}) for key in ("rds", "scoped_routes")):
        del manager["route_config"]
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if "tcp_proxy" in file:
        proxy = {"@type": TYPE + "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "upstream", "access_log": [access_log()]}
        chain = {"filters": [{"name": "tcp", "typed_config": merged(proxy, file["tcp_proxy"] or {})}]}
    chain["filters"] = file.get("network_filters", []) + chain["filters"]
    if "tls" in file:
        context = {"common_tls_context": {"tls_certificates": [{"certificate_chain": {"filename": "@DIR@/server.pem"}, "private_key": {"filename": "@DIR@/server.pem"}}]}}
        context = merged({"@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext", **context}, file["tls"])
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    listener = {
        "name": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": "@PORT@"}},
        "filter_chains": [merged(chain, file.get("filter_chain", {}))],
    }
    clusters = {"upstream": {}, **file.get("clusters", {})}
    document = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": "@ADMIN@"}}},
        "static_resources": {
            "listeners": [merged(listener, file.get("listener", {}))],
            "clusters": [merged(cluster(name), changes or {}) for name, changes in clusters.items()],
        },
    }
    return merged(document, file.get("bootstrap", {}))


def access_log(format=ACCESS_LOG):
    return {
        "name": "file",
        "typed_config": {
            "@type": TYPE + "access_loggers.file.v3.FileAccessLog",
            "path": "@DIR@/access.log",
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }


def cluster(name):
    """A cluster of one host: the test upstream of the same name."""
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": f"@UPSTREAM:{name}@"}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


def merged(base, changes):
    """`changes` over `base`: mappings are merged, all else is replaced; null takes a key away."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return copy.deepcopy(changes)
    result = {key: copy.deepcopy(value) for key, value in base.items() if changes.get(key, "") is not None}
    for key, value in changes.items():
        if value is not None:
            result[key] = merged(base.get(key, {}), value) if key in base else copy.deepcopy(value)
    return result


def filled(value, names):
    """The document with its placeholders filled; one that is a whole value keeps the type of what it stands for."""
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, names) for inner in value]
    if isinstance(value, str):
        if value == "@UPSTREAM@":
            value = "@UPSTREAM:upstream@"
        if value in names:
            return names[value]
        for name, stands_for in names.items():
            value = value.replace(name, str(stands_for))
        return value.replace("@UPSTREAM@", str(names.get("@UPSTREAM:upstream@", "")))
    return value
