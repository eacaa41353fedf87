//! Access logs as a whole: what lines come out of which configuration. The expected output is that of the real Envoy 1.40.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Version};
use tokio::time::Instant;

use crate::config::{Field, Report};
use crate::net::Address;
use crate::proto::value::Kind;
use crate::proto::{ListValue, Struct, Value};
use crate::stream_info::{ConnectionInfo, PeerCertificate, ResponseFlags, StreamInfo, TlsInfo, UpstreamInfo};

use super::json::JsonFormat;
use super::{Format, Scope, Style, SubstitutionFormat};

fn stream() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 7,
        start: Instant::now(),
        remote: Address::Ip("127.0.0.1:50636".parse().unwrap()),
        direct_remote: Address::Ip("10.0.0.9:1".parse().unwrap()),
        local: Address::Ip("[::1]:8443".parse().unwrap()),
        direct_local: Address::Ip("[::1]:8443".parse().unwrap()),
        server_name: None,
        upstream_cluster: None,
        proxy_protocol: None,
        listener: "l0".into(),
        filter_chain: "fc".into(),
        tls: Some(TlsInfo {
            version: "TLSv1.3",
            sni: Some("db.example".into()),
            peer: Some(Box::new(PeerCertificate {
                dns_sans: vec!["a.example".into(), "b.example".into()],
                ..PeerCertificate::default()
            })),
            ..TlsInfo::default()
        }),
        fingerprints: None,
        peer_credentials: None,
    };
    let mut info = StreamInfo::begin(Rc::new(connection), Version::HTTP_2, Method::GET);
    info.start_time = std::time::UNIX_EPOCH + Duration::from_millis(1_795_260_501_468);
    info.authority = Some(HeaderValue::from_static("db.example:8443"));
    info.path = Some("/z?a=b%20c%0a&x".parse().unwrap());
    info.request_headers = [
        ("x-envoy-original-path", "/u?a=b%20c%0a&x"),
        ("user-agent", "agent/1 \"q\"\t"),
        ("x-forwarded-for", "9.9.9.9"),
    ]
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .to_vec();
    info.trusted_client = Some("9.9.9.9:0".parse().unwrap());
    info.response_code = Some(503);
    info.response_code_details = Cow::Borrowed("upstream reset");
    info.flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
    info.bytes_sent = 98;
    info.attempt_count = 1;
    info.upstream_cluster = Some("c".into());
    info.upstream = Some(Rc::new(UpstreamInfo {
        cluster: "c".into(),
        address: Address::Ip("127.0.0.1:19902".parse().unwrap()),
        host_name: "host.example:19902".to_owned(),
        cluster_stat_name: "c".into(),
        cluster_metadata: None,
        host_metadata: None,
    }));
    info.timing.last_downstream_rx = Some(Duration::from_micros(1500));
    info.timing.first_upstream_rx = Some(Duration::from_millis(2));
    info.timing.end = Some(Duration::from_millis(12));
    info
}

fn line(format: &str, style: Style) -> String {
    let mut out = Vec::new();
    Format::parse(format).unwrap().render(&Scope::finished(&stream()), style, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_default_format() {
    let mut out = Vec::new();
    SubstitutionFormat::default_log().render(&Scope::finished(&stream()), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "[2026-11-21T11:28:21.468Z] \"GET /u?a=b%20c%0a&x HTTP/2\" 503 UF 0 98 12 - \"9.9.9.9\" \"agent/1 \"q\"\\x09\" \"-\" \
         \"db.example:8443\" \"127.0.0.1:19902\"\n"
    );
}

#[test]
fn operators_print_what_envoy_prints() {
    for (format, expected) in [
        ("%START_TIME(%s)%|%START_TIME(%Y %E3S %f %3f %z %Z)%", "1795260501|2026 21.468 468000000 468 +0000 UTC"),
        ("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:SCHEME)% %REQ(:AUTHORITY)%", "GET /z?a=b%20c%0a&x http db.example:8443"),
        ("%REQ(nope)%|%REQ(nope?user-agent):5%|%RESP(server)%|%RESP(:STATUS)%|%TRAILER(x)%", "-|agent|-|503|-"),
        ("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE%", "UF UpstreamConnectionFailure 503"),
        ("%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "upstream_reset|upstream reset"),
        (
            "%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_TX_DURATION%",
            "12 1 2 10 -",
        ),
        ("%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%|%COMMON_DURATION(DS_RX_END:US_TX_BEG:ns)%", "1500|-"),
        (
            "%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
            "127.0.0.1:19902 host.example:19902 host.example",
        ),
        (
            "%UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_PROTOCOL%",
            "c - 1 -",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%",
            "9.9.9.9:0 9.9.9.9 0",
        ),
        (
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
            "10.0.0.9:1 [::1]:8443 ::1",
        ),
        (
            "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_URI_SAN%",
            "db.example TLSv1.3 a.example,b.example -",
        ),
        ("%ROUTE_NAME% %CONNECTION_ID% %FILTER_CHAIN_NAME% %ACCESS_LOG_TYPE% %GRPC_STATUS%", "- 7 fc DownstreamEnd -"),
        ("%PATH% %PATH(NQ)% %PATH(WQ:ORIG)% %PATH(NQ:PATH)%", "/u?a=b%20c%0a&x /u /u?a=b%20c%0a&x /z"),
        ("%QUERY_PARAM(a)%|%QUERY_PARAM(x)%|%QUERY_PARAM(zz)%|%ENVIRONMENT(PORTREEVE_NOT_SET)%", "b c\\x0a||-|-"),
        ("100%% of %PROTOCOL%", "100% of HTTP/2"),
    ] {
        assert_eq!(line(format, Style::Line), expected, "{format}");
    }
}

#[test]
fn unique_ids_are_uuids_and_differ() {
    let (one, other) = (line("%UNIQUE_ID%", Style::Line), line("%UNIQUE_ID%", Style::Line));
    assert_ne!(one, other);
    assert_eq!((one.len(), &one[14..15]), (36, "4"), "{one}");
    assert!(matches!(&one[19..20], "8" | "9" | "a" | "b"), "{one}");
    assert_eq!(line("[%CUSTOM_FLAGS%%LOCAL_REPLY_BODY%]", Style::Line), "[]");
}

#[test]
fn absent_facts_depend_on_the_style() {
    let format = "[%REQ(:nope?nope)%|%UPSTREAM_PROTOCOL%|%RESPONSE_FLAGS%]";
    assert_eq!(line(format, Style::Line), "[-|-|UF]");
    assert_eq!(line(format, Style::LineOmittingEmpty), "[||UF]");
    assert_eq!(line(format, Style::HeaderValue), "[||UF]");
}

#[test]
fn mistakes_in_a_format_are_explained() {
    for (format, expected) in [
        ("%PROTCOL%", "unknown command %PROTCOL% at position 0; did you mean %PROTOCOL%?"),
        ("a %NOTHING_LIKE_IT_AT_ALL%", "unknown command %NOTHING_LIKE_IT_AT_ALL% at position 2"),
        ("50% done", "the '%' at position 2 starts no command; a percent sign is written '%%'"),
        ("%REQ(x%", "the '%' at position 0 starts no command; a percent sign is written '%%'"),
        ("%REQ()%", "%REQ()% at position 0: an argument is required"),
        ("%REQ(a?b?c)%", "%REQ(a?b?c)% at position 0: no more than one alternative is possible"),
        ("%DURATION(ms)%", "%DURATION(ms)% at position 0: the command takes no argument"),
        ("%PROTOCOL:5%", "%PROTOCOL:5% at position 0: the command takes no length"),
        ("%START_TIME(%n)%", "%START_TIME(%n)% at position 0: a time cannot hold a new line"),
        ("%START_TIME(%Y):4%", "%START_TIME(%Y):4% at position 0: the command takes no length"),
        (
            "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:s)%",
            "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:s)% at position 0: \"s\" is none of ms, us, ns",
        ),
        ("%DYNAMIC_METADATA%", "%DYNAMIC_METADATA% at position 0: an argument is required"),
        ("%METADATA(NOPE:a)%", "%METADATA(NOPE:a)% at position 0: \"NOPE\" has no metadata"),
        (
            "%FILTER_STATE(k:X)%",
            "%FILTER_STATE(k:X)% at position 0: expected a key, and behind a colon PLAIN, TYPED or FIELD:NAME",
        ),
        ("%DOWNSTREAM_TLS_GROUP%", "%DOWNSTREAM_TLS_GROUP% is valid in Envoy, not implemented by Portreeve yet"),
    ] {
        assert_eq!(Format::parse(format).unwrap_err().to_string(), expected, "{format}");
    }
}

#[test]
fn a_log_may_name_what_is_not_recorded() {
    let report = Report::new();
    let format = Format::parse_for_log("%DOWNSTREAM_CX_RTT% %PROTOCOL%", Field::root(&report)).unwrap();
    let mut out = Vec::new();
    format.render(&Scope::finished(&stream()), Style::Line, &mut out);
    assert_eq!(out, b"- HTTP/2");
    assert!(!report.has_errors());
    assert_eq!(report.into_problems().len(), 1);
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Struct {
    Struct { fields: members.map(|(key, value)| (key.to_owned(), value)).into() }
}

fn nested(value: Struct) -> Value {
    Value { kind: Some(Kind::StructValue(value)) }
}

#[test]
fn json_keeps_types_and_sorts_keys() {
    let list = [
        text("%PROTOCOL%"),
        Value { kind: Some(Kind::NumberValue(1.0)) },
        Value { kind: Some(Kind::BoolValue(true)) },
        Value { kind: Some(Kind::NullValue(0)) },
        text("x\"\\\n\u{e9} %REQ(nope)% y"),
        nested(object([("e", text("%REQ(nope)%"))])),
    ];
    let format = object([
        ("code", text("%RESPONSE_CODE%")),
        ("mixed", text("%PROTOCOL%/%RESPONSE_CODE%")),
        ("agent", text("%REQ(user-agent)%")),
        ("absent", text("%REQ(nope)%")),
        ("list", Value { kind: Some(Kind::ListValue(ListValue { values: list.to_vec() })) }),
        ("empty", nested(object([("e", text("%TRAILER(x)%"))]))),
        ("literal", text("lit%%x")),
    ]);
    let json = |omit_empty| {
        let report = Report::new();
        let format = JsonFormat::from_proto(&format, omit_empty, Field::root(&report)).unwrap();
        let mut out = Vec::new();
        format.render(&Scope::finished(&stream()), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        json(false),
        concat!(
            r#"{"absent":null,"agent":"agent/1 \"q\"\t","code":503,"empty":{"e":null},"#,
            r#""list":["HTTP/2",1,true,null,"x\"\\\né - y",{"e":null}],"literal":"lit%x","mixed":"HTTP/2/503"}"#,
            "\n"
        )
    );
    assert_eq!(
        json(true),
        concat!(
            r#"{"agent":"agent/1 \"q\"\t","code":503,"list":["HTTP/2",1,true,"x\"\\\né  y"],"#,
            r#""literal":"lit%x","mixed":"HTTP/2/503"}"#,
            "\n"
        )
    );
}
