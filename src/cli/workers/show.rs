//! How answers and refusals are printed: tables for people, JSON for programs.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Serializer;
use tonic::{Code, Status};

use super::{Answer, Format};
use crate::{
    proto::{
        self, Timestamp,
        registration::{Address, Lease, ListResponse, PublicUrl, Registration, Route, State, route::Match},
    },
    registration::field_violations,
};

/// Prints what a call answered.
pub fn answer(out: &mut impl Write, answer: &Answer, format: Format) -> io::Result<()> {
    match (answer, format) {
        (Answer::Listed(registrations), Format::Table) => table(out, registrations),
        (Answer::Listed(registrations), Format::Json) => {
            json(out, &ListResponse { registrations: registrations.clone(), ..ListResponse::default() })
        }
        (Answer::Registered(registered), Format::Table) => {
            writeln!(out, "registered, lease {}", registered.lease.as_ref().map_or("", |lease| &lease.id))?;
            if let Some(lease) = &registered.lease {
                writeln!(out, "ends in {} unless renewed", remaining(lease))?;
            }
            registered.public_urls.iter().try_for_each(|url| writeln!(out, "reachable at {}", public_url(url)))
        }
        (Answer::Registered(registered), Format::Json) => json(out, registered),
        (Answer::Drained(drained), Format::Table) => {
            let active = drained.registration.as_ref().map_or(0, |registration| registration.requests_active);
            writeln!(out, "draining, {active} requests active")
        }
        (Answer::Drained(drained), Format::Json) => json(out, &**drained),
        (Answer::Removed(removed), Format::Table) => match removed.requests_active {
            0 => writeln!(out, "removed"),
            active => writeln!(out, "removed, {active} requests were still active"),
        },
        (Answer::Removed(removed), Format::Json) => json(out, removed),
    }
}

/// Prints why a call was refused: every wrong field on a line of its own.
pub fn refusal(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let violations = field_violations(status);
    if violations.is_empty() {
        return writeln!(out, "portreeve: {}: {}", code(status.code()), status.message());
    }
    writeln!(out, "portreeve: {}:", code(status.code()))?;
    violations.iter().try_for_each(|wrong| writeln!(out, "  {}: {}", wrong.field, wrong.description))
}

/// The name of a code as gRPC writes it.
fn code(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn json<M: Message + Name>(out: &mut impl Write, message: &M) -> io::Result<()> {
    let descriptor = proto::pool().get_message_by_name(&M::full_name()).ok_or(io::ErrorKind::InvalidData)?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(io::Error::other)?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    dynamic.serialize_with_options(&mut Serializer::pretty(&mut *out), &options)?;
    writeln!(out)
}

fn table(out: &mut impl Write, registrations: &[Registration]) -> io::Result<()> {
    let head = ["WORKER", "SERVICE", "OWNER", "STATE", "ENDS IN", "ACTIVE", "ADDRESSES", "ROUTES"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(registrations.iter().map(row));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(registration: &Registration) -> [String; 8] {
    let worker = registration.worker.clone().unwrap_or_default();
    let state = match registration.state() {
        State::Active => "active",
        State::Draining => "draining",
        State::Expired => "expired",
        State::Unspecified => "",
    };
    [
        worker.worker_id,
        worker.service,
        registration.owner.clone(),
        state.to_owned(),
        registration.lease.as_ref().map(remaining).unwrap_or_default(),
        registration.requests_active.to_string(),
        worker.addresses.iter().map(address).collect::<Vec<_>>().join(" "),
        worker.routes.iter().map(route).collect::<Vec<_>>().join(" "),
    ]
}

fn address(address: &Address) -> String {
    match address {
        Address { unix_socket, .. } if !unix_socket.is_empty() => format!("unix:{unix_socket}"),
        Address { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        Address { host, port, .. } => format!("{host}:{port}"),
    }
}

fn route(route: &Route) -> String {
    match (&route.r#match, &route.prefix_rewrite) {
        (Some(Match::PathPrefix(prefix)), None) => prefix.clone(),
        (Some(Match::PathPrefix(prefix)), Some(rewrite)) => format!("{prefix}={rewrite}"),
        (Some(Match::Header(header)), _) => format!("{}:{}", header.name, header.value),
        (None, _) => String::new(),
    }
}

fn public_url(public: &PublicUrl) -> String {
    match &public.header {
        None => public.url.clone(),
        Some(header) => format!("{} with header {}: {}", public.url, header.name, header.value),
    }
}

/// The rest of a lease, in whole seconds.
fn remaining(lease: &Lease) -> String {
    let Some(Timestamp { seconds, .. }) = lease.expires_at else { return String::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{}s", u64::try_from(seconds).unwrap_or_default().saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::registration::RegisterRequest;

    fn printed(answer: &Answer, format: Format) -> String {
        let mut out = Vec::new();
        super::answer(&mut out, answer, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn registration() -> Registration {
        Registration {
            worker: Some(RegisterRequest {
                worker_id: "w1".to_owned(),
                service: "query".to_owned(),
                addresses: vec![Address { host: "::1".to_owned(), port: 80, ..Address::default() }],
                routes: vec![Route { r#match: Some(Match::PathPrefix("/w1".to_owned())), prefix_rewrite: None }],
                ..RegisterRequest::default()
            }),
            owner: "dispatcher".to_owned(),
            state: State::Draining.into(),
            requests_active: 3,
            ..Registration::default()
        }
    }

    #[test]
    fn a_list_is_a_table() {
        assert_eq!(
            printed(&Answer::Listed(vec![registration()]), Format::Table),
            "WORKER  SERVICE  OWNER       STATE     ENDS IN  ACTIVE  ADDRESSES  ROUTES\n\
             w1      query    dispatcher  draining           3       [::1]:80   /w1\n"
        );
    }

    #[test]
    fn json_is_that_of_the_api() {
        let text = printed(&Answer::Listed(vec![registration()]), Format::Json);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["registrations"][0]["worker"]["worker_id"], "w1");
        assert_eq!(json["registrations"][0]["state"], "STATE_DRAINING");
    }

    #[test]
    fn codes_are_named_as_grpc_names_them() {
        assert_eq!(code(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(code(Code::Unavailable), "UNAVAILABLE");
    }
}
