//! The registration API: worker processes announce themselves, and requests reach them.
//!
//! Glossary. A *registration* is what the ingress knows of one worker process: where it listens, which requests are its own, to
//! which *caller* it belongs. A *lease* is the right to it for some time; who does not renew it in time has an *expired*
//! registration, whose routes answer 503 for a while (the time of grace) before it is *forgotten*. A *service* is the
//! cluster that several workers form. A route is *held* by the registrations that claim it.
//!
//! The walk of a call: the HTTP filter `portreeve.filters.http.registration` knows the caller and hands the request to the main
//! thread; `service.rs` decodes and validates it; `registrar.rs` applies it to the store (`lease.rs`), turns what has changed into
//! clusters and routes (`publish.rs`) and gives them to the one door, `ConfigManager::apply`; the call is answered when every
//! worker thread has the new snapshot. So one more source stands at the one door; there is no second discovery system.
//!
//! How registrations pass to the process that takes this one's place: `handoff.rs`.

mod answer;
mod handoff;
mod lease;
mod publish;
mod refusal;
mod registrar;
mod resolve;
mod server;
mod service;
mod transport;
mod worker;

pub use handoff::{Control, Frozen};
pub use refusal::{FieldViolation, field_violations};
pub use server::serve;
