//! Why a call is refused, and how that is told: a gRPC status, the wrong fields in google.rpc.BadRequest, one line of audit.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use super::lease::Registration;
use crate::{
    config::{Field, Problem, Report},
    proto::{Any, rpc},
};

/// Why a call is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Fields of the request are wrong.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// The caller may not use addresses that it names.
    #[error("{}", list(.0))]
    Forbidden(Vec<Problem>),
    /// The worker id or routes are another's.
    #[error("{}", list(.0))]
    Held(Vec<Conflict>),
    /// Nobody has registered this id.
    #[error("no worker {id:?} is registered")]
    Unknown {
        /// The worker id that was asked for.
        id: String,
    },
    /// It was registered, and not renewed in time.
    #[error("the lease of worker {id:?} has ended: register it again")]
    LeaseEnded {
        /// The worker id that was asked for.
        id: String,
    },
    /// It belongs to somebody else.
    #[error("worker {id:?} belongs to caller {owner:?}")]
    NotOwner {
        /// The worker id that was asked for.
        id: String,
        /// Whose it is.
        owner: Arc<str>,
    },
    /// The worker has registered anew since.
    #[error("worker {id:?} has a newer lease")]
    StaleLease {
        /// The worker id that was asked for.
        id: String,
    },
    /// The service's other workers speak another protocol, or other TLS.
    #[error(
        "service: its worker {other:?} has another protocol or other tls settings, and all of a service have the same"
    )]
    TransportDiffers {
        /// One of them.
        other: Arc<str>,
    },
    /// The store is full.
    #[error("there are as many registrations as this ingress takes ({})", super::lease::CAPACITY)]
    Full,
    /// The process is stopping, or has handed its registrations over to another. Nothing was done.
    #[error("the ingress is stopping")]
    Stopping,
}

/// A worker id or a route that is another's.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{field}: is held by worker {worker:?} of caller {owner:?}")]
pub struct Conflict {
    field: String,
    worker: Arc<str>,
    owner: Arc<str>,
}

impl Conflict {
    /// The id of the request is that of `held`.
    pub fn of_worker_id(held: &Registration) -> Conflict {
        Conflict::new("worker_id".to_owned(), held)
    }

    /// The route at this place of the request is one of `held`.
    pub fn of_route(index: usize, held: &Registration) -> Conflict {
        Conflict::new(format!("routes[{index}]"), held)
    }

    fn new(field: String, held: &Registration) -> Conflict {
        Conflict { field, worker: Arc::clone(&held.worker.id), owner: Arc::clone(&held.owner) }
    }
}

impl Refusal {
    /// [`Refusal::Invalid`] if `report` holds errors.
    pub fn invalid(report: Report) -> Result<(), Refusal> {
        if report.has_errors() { Err(Refusal::Invalid(report.into_problems())) } else { Ok(()) }
    }

    /// [`Refusal::Forbidden`] if `report` holds errors.
    pub fn forbidden(report: Report) -> Result<(), Refusal> {
        if report.has_errors() { Err(Refusal::Forbidden(report.into_problems())) } else { Ok(()) }
    }

    /// The page token of a List is not one that it answered with.
    pub fn bad_page_token() -> Refusal {
        let report = Report::new();
        Field::root(&report).key("page_token").error("is not one of an earlier answer");
        Refusal::Invalid(report.into_problems())
    }

    /// The gRPC code that tells a client what to do next.
    pub fn code(&self) -> Code {
        match self {
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::Forbidden(_) | Refusal::NotOwner { .. } => Code::PermissionDenied,
            Refusal::Held(_) => Code::AlreadyExists,
            Refusal::Unknown { .. } | Refusal::LeaseEnded { .. } => Code::NotFound,
            Refusal::StaleLease { .. } | Refusal::TransportDiffers { .. } => Code::FailedPrecondition,
            Refusal::Full => Code::ResourceExhausted,
            Refusal::Stopping => Code::Unavailable,
        }
    }

    /// The fields that are wrong, where the reason lies in fields.
    fn violations(&self) -> Vec<FieldViolation> {
        match self {
            Refusal::Invalid(problems) | Refusal::Forbidden(problems) => problems
                .iter()
                .map(|problem| FieldViolation { field: problem.location(), description: problem.message.clone() })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let (code, message) = (refusal.code(), refusal.to_string());
        let field_violations = refusal.violations();
        if field_violations.is_empty() {
            let mut status = Status::new(code, message);
            status.set_source(Arc::new(refusal));
            return status;
        }
        let bad_request = BadRequest { field_violations };
        let details = rpc::Status {
            code: code.into(),
            message: message.clone(),
            details: vec![Any { type_url: BAD_REQUEST.to_owned(), value: bad_request.encode_to_vec() }],
        };
        Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
    }
}

/// Whether the call that ended so was not processed, and another process may do it.
pub fn is_unprocessed(status: &Status) -> bool {
    let refusal = status.source().and_then(|source| source.downcast_ref());
    matches!(refusal, Some(Refusal::Stopping))
}

/// What the details of a status say about fields of the request; empty if they say nothing.
pub fn field_violations(status: &Status) -> Vec<FieldViolation> {
    let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
    let bad_request = details.iter().find(|any| any.type_url == BAD_REQUEST);
    let bad_request = bad_request.and_then(|any| BadRequest::decode(any.value.as_slice()).ok());
    bad_request.unwrap_or_default().field_violations
}

const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// `google.rpc.BadRequest` (googleapis, `google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
pub struct BadRequest {
    /// All that is wrong.
    #[prost(message, repeated, tag = "1")]
    pub field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
pub struct FieldViolation {
    /// The path of the field, such as `routes[1].path_prefix`.
    #[prost(string, tag = "1")]
    pub field: String,
    /// What is wrong with it.
    #[prost(string, tag = "2")]
    pub description: String,
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
