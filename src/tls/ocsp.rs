//! OCSP responses that are stapled to our certificates (RFC 6960), and when: `ocsp_staple` and `ocsp_staple_policy`.

use std::time::SystemTime;

use x509_parser::der_parser::{
    ber::{BerObject, BerObjectContent, Class, Tag},
    der::parse_der,
};

use crate::{
    config::field::Field,
    proto::{core::DataSource, tls::downstream_tls_context::OcspStaplePolicy},
};

use super::{files::FileReader, pem, x509};

/// A response about one certificate.
#[derive(Clone, Debug)]
pub(super) struct OcspResponse {
    pub(super) der: Vec<u8>,
    serial: Vec<u8>,
    this_update: SystemTime,
    /// `None`: newer information is available all the time, so it is never fresh.
    next_update: Option<SystemTime>,
}

/// What a client that asks for a response gets with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Staple {
    /// The response.
    Response,
    /// The certificate alone.
    Nothing,
    /// Another certificate, or nothing at all.
    Refusal,
}

impl OcspResponse {
    /// Reads the response for the certificate `leaf`. `Some(None)`: the source is empty, which is as good as none.
    pub(super) fn from_proto(
        source: &DataSource,
        leaf: &[u8],
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Option<OcspResponse>> {
        let der = files.read(source, field)?;
        if der.is_empty() {
            return Some(None);
        }
        let field = pem::value(source, &field);
        let response = OcspResponse::parse(der).inspect_err(|reason| field.error(*reason)).ok()?;
        if x509::serial(leaf) != Some(&response.serial) {
            field.error("OCSP response does not match its TLS certificate");
            return None;
        }
        Some(Some(response))
    }

    fn parse(der: Vec<u8>) -> Result<OcspResponse, &'static str> {
        const DAMAGED: &str = "OCSP response is damaged";
        let (_, response) = parse_der(&der).map_err(|_| DAMAGED)?;
        let response = response.as_sequence().map_err(|_| DAMAGED)?;
        if !matches!(response.first().map(|status| &status.content), Some(BerObjectContent::Enum(0))) {
            return Err("OCSP response was unsuccessful");
        }
        let basic = response.get(1).and_then(basic_response).ok_or(DAMAGED)?;
        let (_, basic) = parse_der(&basic).map_err(|_| DAMAGED)?;
        let data = basic.as_sequence().ok().and_then(|parts| parts.first()).and_then(|data| data.as_sequence().ok());
        let responses = data.into_iter().flatten().find_map(|part| part.as_sequence().ok()).ok_or(DAMAGED)?;
        let [single] = responses.as_slice() else { return Err("OCSP Response must be for one certificate only") };
        let (serial, this_update, next_update) = single_response(single).ok_or(DAMAGED)?;
        Ok(OcspResponse { der, serial, this_update, next_update })
    }

    /// From when to when it holds.
    pub(super) fn validity(&self) -> (SystemTime, Option<SystemTime>) {
        (self.this_update, self.next_update)
    }

    fn is_fresh(&self) -> bool {
        self.next_update.is_some_and(|end| SystemTime::now() <= end)
    }
}

impl Staple {
    /// What the policy says of a certificate with this response.
    pub(super) fn choose(policy: OcspStaplePolicy, response: Option<&OcspResponse>) -> Staple {
        if response.is_some_and(OcspResponse::is_fresh) {
            return Staple::Response;
        }
        match policy {
            OcspStaplePolicy::LenientStapling => Staple::Nothing,
            OcspStaplePolicy::StrictStapling if response.is_none() => Staple::Nothing,
            OcspStaplePolicy::StrictStapling | OcspStaplePolicy::MustStaple => Staple::Refusal,
        }
    }
}

/// The octets within `[0] EXPLICIT ResponseBytes`.
fn basic_response(bytes: &BerObject<'_>) -> Option<Vec<u8>> {
    let (_, bytes) = parse_der(bytes.as_slice().ok()?).ok()?;
    Some(bytes.as_sequence().ok()?.get(1)?.as_slice().ok()?.to_vec())
}

/// The serial number, the begin and the end of a `SingleResponse`.
fn single_response(single: &BerObject<'_>) -> Option<(Vec<u8>, SystemTime, Option<SystemTime>)> {
    let parts = single.as_sequence().ok()?;
    let serial = parts.first()?.as_sequence().ok()?.get(3)?.as_slice().ok()?.to_vec();
    // Of what may follow the time of the response, the end has the lowest tag.
    let is_next = |part: &&BerObject<'_>| part.class() == Class::ContextSpecific && part.tag() == Tag(0);
    let next = parts.get(3).filter(is_next);
    let next = next.and_then(|part| {
        let (_, next) = parse_der(part.as_slice().ok()?).ok()?;
        time(&next)
    });
    Some((serial, time(parts.get(2)?)?, next))
}

fn time(object: &BerObject<'_>) -> Option<SystemTime> {
    match &object.content {
        BerObjectContent::GeneralizedTime(time) => Some(SystemTime::from(time.to_datetime().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    /// Made by `openssl ocsp` for the serial number below, good for a century.
    const RESPONSE: &str = "MIIBRQoBAKCCAT4wggE6BgkrBgEFBQcwAQEEggErMIIBJzCBzqEdMBsxGTAXBgNVBAMMEFBhcml0eSBhdXRob3JpdHkYDzIwMjYxMTIxMTkyNDI1WjB3MHUwTTAJBgUrDgMCGgUABBRhr7jZKXF2HH8CaW5lRCf+Nhm72AQU2iqCh3HzcMiCFaPlxyqty5hfn5YCFCavQIGyhtCc4rrNtJCN92h/tIeMgAAYDzIwMjYxMTIxMTkyNDI1WqARGA8yMTI2MTAyODE5MjQyNVqhIzAhMB8GCSsGAQUFBzABAgQSBBAGC1Vmxnm8jhxp9KqKUTfEMAoGCCqGSM49BAMCA0gAMEUCIQDafPuMlMG6FrtN4Gfy/f2jRXK1gUzVs3gGMviATFeZSwIgNwI8nozi5VCvS+chqZhrShfcDoIfZ6clqjSXPqhLBaA=";
    const SERIAL: &str = "26AF4081B286D09CE2BACDB4908DF7687FB4878C";

    fn response() -> OcspResponse {
        OcspResponse::parse(STANDARD.decode(RESPONSE).unwrap()).unwrap()
    }

    #[test]
    fn a_response_names_its_certificate_and_its_end() {
        let hex: String = response()
            .serial
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from_digit(digit.into(), 16).unwrap())
            .collect();
        assert_eq!(hex.trim_start_matches('0').to_uppercase(), SERIAL);
        assert!(response().is_fresh());
        assert!(OcspResponse::parse(b"nonsense".to_vec()).is_err());
        let unsuccessful = vec![0x30, 3, 0x0a, 1, 6];
        assert_eq!(OcspResponse::parse(unsuccessful).unwrap_err(), "OCSP response was unsuccessful");
    }

    #[test]
    fn policies_differ_where_there_is_no_fresh_response() {
        let (fresh, stale) = (response(), OcspResponse { next_update: Some(SystemTime::UNIX_EPOCH), ..response() });
        for (policy, with_none, with_stale) in [
            (OcspStaplePolicy::LenientStapling, Staple::Nothing, Staple::Nothing),
            (OcspStaplePolicy::StrictStapling, Staple::Nothing, Staple::Refusal),
            (OcspStaplePolicy::MustStaple, Staple::Refusal, Staple::Refusal),
        ] {
            assert_eq!(Staple::choose(policy, None), with_none, "{policy:?}");
            assert_eq!(Staple::choose(policy, Some(&stale)), with_stale, "{policy:?}");
            assert_eq!(Staple::choose(policy, Some(&fresh)), Staple::Response, "{policy:?}");
        }
    }
}
