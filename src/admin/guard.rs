//! Who may talk to the admin interface: no web page of somebody else's.
//!
//! The interface has no passwords; it relies on being bound where only administrators reach it. A browser on such a
//! machine reaches it too, on behalf of any page it shows. Two rules keep those pages out. A page whose own name is made
//! to resolve to our address (DNS rebinding) sends that name as `Host`: so `Host` must be an IP address, `localhost` or
//! the machine's own name. A page elsewhere that sends a form or a script's request here (CSRF) is named in `Origin` or
//! `Referer`: so both, where present, must name the `Host` that was asked.

use std::net::IpAddr;

use http::{HeaderName, header, request::Parts};

/// Why a request was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the Host {0:?} is neither an IP address nor localhost nor the name of this machine; \
         ask by one of these, so that no foreign name can be made to point here (DNS rebinding)"
    )]
    Host(String),
    #[error("the {header} {value:?} is not this server; requests of other web pages are refused")]
    Foreign { header: HeaderName, value: String },
}

/// Refuses what a foreign web page could have made a browser send. `machine` is the name of this machine.
pub(super) fn check(request: &Parts, machine: &str) -> Result<(), Refusal> {
    let asked = match (request.uri.authority(), request.headers.get(header::HOST)) {
        (Some(authority), _) => Some(authority.as_str().to_owned()),
        (None, Some(host)) => Some(String::from_utf8_lossy(host.as_bytes()).into_owned()),
        (None, None) => None,
    };
    if let Some(asked) = &asked
        && !is_own(asked, machine)
    {
        return Err(Refusal::Host(asked.clone()));
    }
    for name in [header::ORIGIN, header::REFERER] {
        for value in request.headers.get_all(&name) {
            let value = String::from_utf8_lossy(value.as_bytes());
            let same = asked.as_deref().is_some_and(|asked| {
                authority_of(&value)
                    .is_some_and(|from| without_port_80(from).eq_ignore_ascii_case(without_port_80(asked)))
            });
            if !same {
                return Err(Refusal::Foreign { header: name, value: value.into_owned() });
            }
        }
    }
    Ok(())
}

/// Whether a name that cannot be somebody else's stands before the port.
fn is_own(authority: &str, machine: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').unwrap_or_default(),
        None => host,
    };
    address.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(machine)
}

/// The authority of an `http` URL. The interface speaks plain HTTP, so a page under another scheme is another origin.
fn authority_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://")?;
    Some(&rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

fn without_port_80(authority: &str) -> &str {
    authority.strip_suffix(":80").unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn checked(headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::get("/stats");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).expect("a valid request").into_parts().0, "gateway-7")
    }

    #[test]
    fn a_host_that_cannot_be_rebound_is_served() {
        for host in [
            "127.0.0.1:8001",
            "127.0.0.1",
            "192.0.2.7:80",
            "[::1]:8001",
            "[::1]",
            "localhost:8001",
            "LOCALHOST",
            "gateway-7:8001",
            "Gateway-7",
        ] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(checked(&[]), Ok(()), "HTTP/1.0 without Host");
    }

    #[test]
    fn a_foreign_host_is_refused() {
        for host in [
            "attacker.example",
            "attacker.example:8001",
            "127.0.0.1.attacker.example:8001",
            "localhost.attacker.example",
            "gateway-7.attacker.example",
            "[attacker.example]:8001",
            "[127.0.0.1",
            "a:b",
            "user@127.0.0.1",
            "",
        ] {
            assert_eq!(checked(&[("host", host)]), Err(Refusal::Host(host.to_owned())), "{host}");
        }
    }

    #[test]
    fn the_authority_of_an_absolute_target_counts_as_host() {
        let parts = |uri| Request::get(uri).header("host", "127.0.0.1").body(()).expect("valid").into_parts().0;
        assert_eq!(check(&parts("http://127.0.0.1:8001/ready"), ""), Ok(()));
        assert!(check(&parts("http://attacker.example/ready"), "").is_err());
    }

    #[test]
    fn origin_and_referer_must_be_the_host_asked() {
        let host = ("host", "127.0.0.1:8001");
        for name in ["origin", "referer"] {
            assert_eq!(checked(&[host, (name, "http://127.0.0.1:8001")]), Ok(()));
            for value in [
                "null",
                "",
                "http://attacker.example",
                "http://127.0.0.1",
                "http://127.0.0.1:3000",
                "http://localhost:8001",
                "https://127.0.0.1:8001",
                "http://127.0.0.1:8001@attacker.example/",
                "file:///tmp/x.html",
            ] {
                assert!(matches!(checked(&[host, (name, value)]), Err(Refusal::Foreign { .. })), "{name}: {value}");
            }
            let twice = [host, (name, "http://127.0.0.1:8001"), (name, "http://attacker.example")];
            assert!(checked(&twice).is_err(), "the second {name} counts too");
        }
        assert_eq!(checked(&[host, ("referer", "http://127.0.0.1:8001/stats?filter=x#y")]), Ok(()));
        assert_eq!(checked(&[("host", "localhost:80"), ("origin", "http://LOCALHOST")]), Ok(()));
        assert!(checked(&[("origin", "http://127.0.0.1:8001")]).is_err(), "no Host to compare with");
    }

    #[test]
    fn a_refusal_says_why() {
        let refusal = checked(&[("host", "attacker.example")]).expect_err("foreign");
        assert!(
            refusal.to_string().starts_with("the Host \"attacker.example\" is neither an IP address nor localhost")
        );
        let refusal = checked(&[("host", "[::1]"), ("origin", "null")]).expect_err("foreign");
        assert!(refusal.to_string().starts_with("the origin \"null\" is not this server"));
    }
}
