//! What is configured: dump, listeners, clusters, certificates.

use super::*;

const SECRETS: &str = r#"{
  "node": {"id": "n1"},
  "static_resources": {
    "listeners": [{
      "name": "ingress",
      "filter_chains": [{
        "filters": [{
          "name": "hcm",
          "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {
              "name": "local_route",
              "request_headers_to_add": [{"header": {"key": "Authorization", "value": "SECRET-header"}}],
              "virtual_hosts": [{"name": "all", "domains": ["*"]}]
            },
            "http_filters": [{
              "name": "registration",
              "typed_config": {
                "@type": "type.googleapis.com/portreeve.registration.v1.RegistrationFilter",
                "callers": [{"name": "dispatcher", "bearer_token": {"inline_string": "SECRET-token"}}]
              }
            }]
          }
        }],
        "transport_socket": {
          "name": "tls",
          "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
              "tls_certificates": [{
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"inline_string": "SECRET-key"},
                "password": {"inline_bytes": "U0VDUkVULXBhc3N3b3Jk"}
              }]
            },
            "session_ticket_keys": {"keys": [{"inline_bytes": "U0VDUkVULXRpY2tldA=="}]}
          }
        }
      }]
    }],
    "clusters": [{"name": "one"}, {"name": "two"}],
    "secrets": [{"name": "generic", "generic_secret": {"secret": {"inline_string": "SECRET-generic"}}}]
  }
}"#;

#[tokio::test]
async fn the_configuration_is_dumped_without_its_secrets() {
    let process = Fake::showing(SECRETS);
    let (status, body) = get(&process, "/config_dump").await;
    assert_eq!(status, 200, "{body}");
    for secret in ["SECRET", "U0VDUkVU"] {
        assert!(!body.contains(secret), "{secret} in {body}");
    }
    assert!(body.contains("\"inline_string\": \"public\""));
    let dump: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let types: Vec<&str> = (dump["configs"].as_array().expect("a list").iter())
        .map(|config| config["@type"].as_str().expect("a type").rsplit('.').next().expect("a name"))
        .collect();
    let kinds = ["Bootstrap", "Clusters", "Listeners", "ScopedRoutes", "Routes", "Secrets"];
    assert_eq!(types, kinds.map(|kind| format!("{kind}ConfigDump")));
    assert_eq!(dump["configs"][0]["last_updated"], "1970-01-01T00:00:01.500Z");
    let routes = &dump["configs"][4]["static_route_configs"][0]["route_config"];
    assert_eq!(routes["name"], "local_route");
    assert_eq!(routes["request_headers_to_add"][0]["header"]["value"], "[redacted]");
    let secret = &dump["configs"][5]["static_secrets"][0]["secret"];
    assert_eq!(secret["generic_secret"]["secret"]["inline_string"], "[redacted]");
    let chain = &dump["configs"][2]["static_listeners"][0]["listener"]["filter_chains"][0];
    let tls = &chain["transport_socket"]["typed_config"];
    assert_eq!(tls["common_tls_context"]["tls_certificates"][0]["private_key"]["inline_string"], "[redacted]");
    let filter = &chain["filters"][0]["typed_config"]["http_filters"][0]["typed_config"];
    assert_eq!(filter["callers"][0]["bearer_token"]["inline_string"], "[redacted]");
    assert_eq!(filter["callers"][0]["name"], "dispatcher");
}

#[tokio::test]
async fn one_kind_of_resource_can_be_dumped() {
    let process = Fake::showing(SECRETS);
    let (status, body) = get(&process, "/config_dump?resource=static_clusters").await;
    let expected = r#"{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "one"
   },
   "last_updated": "1970-01-01T00:00:01.500Z"
  },
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "two"
   },
   "last_updated": "1970-01-01T00:00:01.500Z"
  }
 ]
}
"#;
    assert_eq!((status, &*body), (200, expected));
    assert_eq!(get(&process, "/config_dump?resource=foo").await, (404, "foo not found in config dump".to_owned()));
    assert_eq!(get(&process, "/config_dump?resource=bootstrap").await.0, 400);
    let (_, masked) = get(&process, "/config_dump?resource=static_clusters&mask=cluster.name").await;
    assert!(masked.contains("\"name\": \"two\"") && !masked.contains("last_updated"), "{masked}");
    let (_, named) = get(&process, "/config_dump?resource=static_clusters&name_regex=t.*").await;
    assert!(named.contains("\"two\"") && !named.contains("\"one\""), "{named}");
    assert_eq!(get(&process, "/config_dump?resource=static_clusters&mask=nope").await.0, 400);
    assert_eq!(get(&process, "/config_dump?name_regex=(").await.0, 400);
    let (_, hosts) = get(&process, "/config_dump?include_eds").await;
    assert!(hosts.contains("EndpointsConfigDump"), "{hosts}");
}

#[tokio::test]
async fn connections_are_served_over_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("an address");
    let process = Fake::new();
    let drain = crate::drain::Drain::new();
    let admin = Rc::new(Admin::new(Rc::clone(&process) as Rc<dyn Process>, String::new()));
    let client = async {
        let mut connection = tokio::net::TcpStream::connect(address).await.expect("connected");
        let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("received");
        answer
    };
    let local = tokio::task::LocalSet::new();
    let answer = local.run_until(async {
        tokio::select! {
            answer = client => answer,
            ended = Rc::clone(&admin).serve(crate::sys::socket::ListenSocket::Tcp(listener), drain.watch()) => panic!("{ended:?}"),
        }
    });
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nLIVE\n"), "{answer}");
    assert_eq!((admin.stats.downstream_rq_total.value(), admin.stats.downstream_rq_2xx.value()), (1, 1));
}

#[tokio::test]
async fn listeners_are_shown_with_their_addresses() {
    let process = Fake::new();
    let expected = "ingress::127.0.0.1:8443\nlocal::/run/x.sock\n";
    assert_eq!(get(&process, "/listeners").await, (200, expected.to_owned()));
    let expected = r#"{
 "listener_statuses": [
  {
   "name": "ingress",
   "local_address": {
    "socket_address": {
     "address": "127.0.0.1",
     "port_value": 8443
    }
   }
  },
  {
   "name": "local",
   "local_address": {
    "pipe": {
     "path": "/run/x.sock"
    }
   }
  }
 ]
}
"#;
    assert_eq!(get(&process, "/listeners?format=json").await, (200, expected.to_owned()));
}

const CLUSTERS: &str = r#"{"static_resources": {"clusters": [
  {
    "name": "web",
    "alt_stat_name": "web_alt",
    "load_assignment": {"cluster_name": "web", "endpoints": [{
      "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
      "priority": 0,
      "lb_endpoints": [{
        "load_balancing_weight": 3,
        "endpoint": {
          "hostname": "h1",
          "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}
        }
      }]
    }]}
  },
  {
    "name": "local",
    "load_assignment": {"cluster_name": "local", "endpoints": [{
      "lb_endpoints": [{
        "health_status": "UNHEALTHY",
        "endpoint": {"address": {"pipe": {"path": "/run/x.sock"}}}
      }]
    }]}
  }
]}}"#;

#[tokio::test]
async fn clusters_are_shown_with_their_hosts_as_text() {
    let process = Fake::running(CLUSTERS);
    let host = &process.snapshot.clusters["web"].hosts.hosts()[0];
    host.stats.rq_total.add(5);
    host.stats.rq_success.add(4);
    host.stats.rq_active.inc();
    let expected = "\
local::observability_name::local
local::default_priority::max_connections::1024
local::default_priority::max_pending_requests::1024
local::default_priority::max_requests::1024
local::default_priority::max_retries::3
local::high_priority::max_connections::1024
local::high_priority::max_pending_requests::1024
local::high_priority::max_requests::1024
local::high_priority::max_retries::3
local::added_via_api::false
local::/run/x.sock::cx_active::0
local::/run/x.sock::cx_connect_fail::0
local::/run/x.sock::cx_total::0
local::/run/x.sock::rq_active::0
local::/run/x.sock::rq_error::0
local::/run/x.sock::rq_pending_active::0
local::/run/x.sock::rq_success::0
local::/run/x.sock::rq_timeout::0
local::/run/x.sock::rq_total::0
local::/run/x.sock::hostname::
local::/run/x.sock::health_flags::/failed_eds_health
local::/run/x.sock::weight::1
local::/run/x.sock::region::
local::/run/x.sock::zone::
local::/run/x.sock::sub_zone::
local::/run/x.sock::canary::false
local::/run/x.sock::priority::0
local::/run/x.sock::success_rate::-1
local::/run/x.sock::local_origin_success_rate::-1
web::observability_name::web_alt
web::default_priority::max_connections::1024
web::default_priority::max_pending_requests::1024
web::default_priority::max_requests::1024
web::default_priority::max_retries::3
web::high_priority::max_connections::1024
web::high_priority::max_pending_requests::1024
web::high_priority::max_requests::1024
web::high_priority::max_retries::3
web::added_via_api::false
web::127.0.0.1:8080::cx_active::0
web::127.0.0.1:8080::cx_connect_fail::0
web::127.0.0.1:8080::cx_total::0
web::127.0.0.1:8080::rq_active::1
web::127.0.0.1:8080::rq_error::0
web::127.0.0.1:8080::rq_pending_active::0
web::127.0.0.1:8080::rq_success::4
web::127.0.0.1:8080::rq_timeout::0
web::127.0.0.1:8080::rq_total::5
web::127.0.0.1:8080::hostname::h1
web::127.0.0.1:8080::health_flags::healthy
web::127.0.0.1:8080::weight::3
web::127.0.0.1:8080::region::r
web::127.0.0.1:8080::zone::z
web::127.0.0.1:8080::sub_zone::s
web::127.0.0.1:8080::canary::false
web::127.0.0.1:8080::priority::0
web::127.0.0.1:8080::success_rate::-1
web::127.0.0.1:8080::local_origin_success_rate::-1
";
    assert_eq!(get(&process, "/clusters").await, (200, expected.to_owned()));
    let (_, filtered) = get(&process, "/clusters?filter=^l").await;
    assert!(expected.starts_with(&filtered) && filtered.lines().count() == 29, "{filtered}");
    assert_eq!(get(&process, "/clusters?filter=(").await.0, 400);
    assert_eq!(get(&process, "/clusters?format=xml").await, (200, expected.to_owned()));
}

#[tokio::test]
async fn clusters_are_shown_with_their_hosts_as_json() {
    let process = Fake::running(CLUSTERS);
    process.snapshot.clusters["web"].hosts.hosts()[0].stats.rq_total.add(5);
    let (_, body) = get(&process, "/clusters?format=json&filter=web").await;
    let expected = serde_json::json!({"cluster_statuses": [{
        "name": "web",
        "host_statuses": [{
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8080}},
            "stats": [
                {"name": "cx_connect_fail"},
                {"name": "cx_total"},
                {"name": "rq_error"},
                {"name": "rq_success"},
                {"name": "rq_timeout"},
                {"name": "rq_total", "value": "5"},
                {"name": "cx_active", "type": "GAUGE"},
                {"name": "rq_active", "type": "GAUGE"},
                {"name": "rq_pending_active", "type": "GAUGE"},
            ],
            "health_status": {"eds_health_status": "HEALTHY"},
            "weight": 3,
            "hostname": "h1",
            "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
        }],
        "observability_name": "web_alt",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3},
            {"priority": "HIGH", "max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3},
        ]},
    }]});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).expect("JSON"), expected);
}

#[tokio::test]
async fn certificates_are_shown_with_their_ends() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["a.example".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.serial_number = Some(vec![0x2a, 0x07].into());
    params.not_before = rcgen::date_time_ymd(2020, 1, 2);
    params.not_after = rcgen::date_time_ymd(3000, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let document = serde_json::json!({"static_resources": {"listeners": [{
        "name": "ingress",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{
            "filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "in",
                "route_config": {},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                }}],
            }}],
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [{
                    "certificate_chain": {"inline_string": certificate},
                    "private_key": {"inline_string": key.serialize_pem()},
                }]},
            }},
        }],
    }]}});
    let (status, body) = get(&Fake::running(&document.to_string()), "/certs").await;
    assert_eq!(status, 200);
    let mut certs: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let days = certs["certificates"][0]["cert_chain"][0]["days_until_expiration"].take();
    assert!(days.as_str().expect("a 64-bit number").parse::<u64>().expect("a number") > 300_000, "{days}");
    let expected = serde_json::json!({"certificates": [{
        "ca_cert": [],
        "cert_chain": [{
            "path": "<inline>",
            "serial_number": "2a07",
            "subject_alt_names": [{"dns": "a.example"}, {"ip_address": "127.0.0.1"}],
            "days_until_expiration": null,
            "valid_from": "2020-01-02T00:00:00Z",
            "expiration_time": "3000-01-01T00:00:00Z",
        }],
    }]});
    assert_eq!(certs, expected);
}
