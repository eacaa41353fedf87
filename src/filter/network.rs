//! Network filters: what serves a connection once its transport is up.

use std::{any::Any, fmt, rc::Rc, sync::Arc, time::Duration};

use super::{FactoryContext, LocalFuture, WorkerContext};
use crate::{
    config::field::Field,
    drain::Watcher,
    net::Io,
    proto,
    runtime::Runtime,
    stream_info::{ConnectionInfo, ResponseFlags},
};

/// A terminal network filter's settings: immutable, shared by all workers.
pub trait NetworkFilter: Send + Sync + fmt::Debug {
    /// Serves a connection until it has ended, or `drain` says so. Dropping the future ends it at once.
    fn serve(
        self: Arc<Self>,
        io: Io,
        connection: Rc<ConnectionInfo>,
        worker: Rc<WorkerContext>,
        drain: Watcher,
    ) -> LocalFuture<'static, ()>;

    /// Notes a connection that a filter before this one has refused. There is nothing to do unless this filter counts and logs all.
    fn refused(&self, _connection: Rc<ConnectionInfo>, _flags: ResponseFlags, _worker: &WorkerContext) {}

    /// A connection ended before it was secured. Envoy counts it as one of the filter's nevertheless.
    fn handshake_failed(&self) {}
}

/// Makes a filter's settings from its `typed_config`; `None` when an error has been reported.
pub type NetworkFilterFromProto = fn(&proto::Any, Field<'_>, &FactoryContext<'_>) -> Option<Arc<dyn NetworkFilter>>;

/// A kind of network filter.
#[derive(Debug, Clone, Copy)]
pub struct NetworkFilterFactory {
    /// The name that configurations use by custom.
    pub name: &'static str,
    /// The message type of its `typed_config`, by which it is found.
    pub type_name: &'static str,
    /// Its conversion.
    pub from_proto: NetworkFilterFromProto,
}

/// The settings of a network filter that stands before the terminal one: it sees connections as they come in, and once their handshake is done.
pub trait ReadFilter: Send + Sync + fmt::Debug {
    /// Decides on a connection that has come in, and may write what it finds out into `connection`. The `runtime` may have switched the
    /// filter off.
    fn admit(&self, _connection: &mut ConnectionInfo, _runtime: &Runtime) -> Admission {
        Admission::Continue
    }

    /// Decides on a connection once its handshake is done.
    fn admit_secured(&self, _connection: &ConnectionInfo) -> Admission {
        Admission::Continue
    }
}

/// What becomes of a connection.
pub enum Admission {
    /// The next filter has it.
    Continue,
    /// The next filter has it, and this is dropped when it has ended.
    ContinueHolding(Box<dyn Any>),
    /// It is closed.
    Close {
        /// After this time.
        delay: Duration,
        /// What logs say of it.
        flags: ResponseFlags,
    },
}

/// Makes a filter's settings from its `typed_config`; `None` when an error has been reported.
pub type ReadFilterFromProto = fn(&proto::Any, Field<'_>, &FactoryContext<'_>) -> Option<Arc<dyn ReadFilter>>;

/// A kind of network filter that is not terminal.
#[derive(Debug, Clone, Copy)]
pub struct ReadFilterFactory {
    /// The message type of its `typed_config`, by which it is found.
    pub type_name: &'static str,
    /// Its conversion.
    pub from_proto: ReadFilterFromProto,
}
