//! The admin listener: accepts connections on the main thread and serves HTTP/1.1 on them.

use std::{io, rc::Rc, time::Duration};

use http::header;
use tokio::{task::JoinSet, time::sleep};

use super::Admin;
use crate::{
    drain::Watcher,
    http::http1::{self, Options},
    net::{Acceptor, Io},
    stats,
    sys::socket::ListenSocket,
};

stats::declare! {
    /// Of the admin interface, under `http.admin.`
    pub(super) struct AdminStats {
        /// Connections served.
        downstream_cx_total: Counter,
        /// Connections open now.
        downstream_cx_active: Gauge,
        /// Requests.
        downstream_rq_total: Counter,
        /// Requests in progress.
        downstream_rq_active: Gauge,
        /// Answers with status 200 to 299.
        downstream_rq_2xx: Counter,
        /// Answers with status 400 to 499.
        downstream_rq_4xx: Counter,
        /// Answers with status 500 to 599.
        downstream_rq_5xx: Counter,
    }
}

/// Time for the head of a request: nobody is to hold a connection for nothing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Admin {
    /// Serves connections until the drain begins and requests in progress have been answered; dropping the future ends them.
    ///
    /// # Errors
    ///
    /// If the socket cannot be used in the runtime.
    pub async fn serve(self: Rc<Self>, socket: ListenSocket, mut drain: Watcher) -> io::Result<()> {
        let acceptor = Acceptor::new(socket)?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = drain.draining() => break,
                accepted = acceptor.accept() => match accepted {
                    Ok(io) => {
                        connections.spawn_local(Rc::clone(&self).serve_connection(io, drain.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(name: "accept_failed", %error, "admin connection not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(acceptor);
        connections.join_all().await;
        Ok(())
    }

    async fn serve_connection(self: Rc<Self>, io: Io, mut drain: Watcher) {
        self.stats.downstream_cx_total.inc();
        self.stats.downstream_cx_active.inc();
        let admin = Rc::clone(&self);
        let service = move |request| {
            let admin = Rc::clone(&admin);
            async move {
                admin.stats.downstream_rq_total.inc();
                admin.stats.downstream_rq_active.inc();
                let mut response = admin.respond(request).await;
                response.headers_mut().insert(header::DATE, admin.date.now());
                match response.status().as_u16() {
                    400..500 => admin.stats.downstream_rq_4xx.inc(),
                    500..600 => admin.stats.downstream_rq_5xx.inc(),
                    _ => admin.stats.downstream_rq_2xx.inc(),
                }
                admin.stats.downstream_rq_active.dec();
                response
            }
        };
        let options = Options { header_timeout: Some(HEADER_TIMEOUT), accept_http_10: true, ..Options::default() };
        if let Err(error) = http1::serve(io, &options, &service, drain.draining()).await {
            tracing::debug!(%error, "admin connection ended early");
        }
        self.stats.downstream_cx_active.dec();
    }
}
