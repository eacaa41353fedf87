//! The admin interface: what the process says of itself and the few things it can be told, in Envoy's formats.
//!
//! It runs on the main thread. An endpoint is one row of [`ENDPOINTS`]; what it needs of the process it asks through
//! [`Process`]. A request passes `guard` first, and changes something only if its method is POST.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};

use crate::{
    http::{Request, Response, body::Body, date::DateCache},
    net::Address,
    proto::admin::{CommandLineOptions, server_info::State},
    snapshot::Snapshot,
    stats::Registry,
};

mod certs;
mod clusters;
mod config_dump;
mod connections;
mod endpoint;
mod endpoints;
mod guard;
mod histograms;
mod home;
mod json;
mod listeners;
mod logging;
mod mask;
mod profiling;
mod query;
mod redact;
mod runtime;
mod server_info;
mod stats;

pub use certs::first_certificate_end;
pub use logging::{LogLevel, Logger, UnknownLogger};

use connections::AdminStats;
use endpoint::{Answer, Endpoint, FORMAT, Parameter};
use query::Query;

/// The process, as the admin interface sees it.
pub trait Process {
    /// All stats.
    fn stats(&self) -> &Arc<Registry>;
    /// Whether the process serves, and why not.
    fn state(&self) -> State;
    /// How long it runs.
    fn uptime(&self) -> Duration;
    /// How it was started.
    fn command_line(&self) -> CommandLineOptions;
    /// The succession of processes, in words.
    fn succession(&self) -> String;
    /// The configuration in force.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// The listeners by name, and the addresses that they are bound to.
    fn listening(&self) -> Vec<(String, Address)>;
    /// The parts of the process that log, in the order of their names.
    fn loggers(&self) -> Vec<Logger>;
    /// Changes what is logged by one part of the process, or by all of it.
    ///
    /// # Errors
    ///
    /// If there is no such part.
    fn set_log_level(&self, logger: Option<&str>, level: LogLevel) -> Result<(), UnknownLogger>;
    /// Sets values of the runtime's admin layer; an empty text takes a key back.
    fn modify_runtime(&self, values: Vec<(String, String)>);
    /// Opens log files anew.
    fn reopen_logs(&self);
    /// Makes health checks fail, so that load balancers turn away, or succeed again.
    fn fail_health_checks(&self, fail: bool);
    /// Stops listening; running requests may finish.
    fn drain_listeners(&self);
    /// Ends the process, after the answer is out.
    fn quit(&self);
}

/// All endpoints, in the order of their paths.
const ENDPOINTS: &[Endpoint] = &[
    Endpoint::shows("/", "Admin home page", |_, _| home::page()),
    Endpoint::changes("/allocprofiler", "enable/disable the allocation profiler (if supported)", |_, query| {
        profiling::switch(query, "allocation profiler")
    })
    .with(profiling::ENABLE),
    Endpoint::shows("/certs", "print certs on machine", |admin, _| certs::respond(&admin.process.snapshot())),
    Endpoint::shows("/clusters", "upstream cluster status", |admin, query| {
        clusters::respond(&admin.process.snapshot(), query)
    })
    .with(clusters::PARAMETERS),
    Endpoint::shows("/config_dump", "dump current configuration", |admin, query| {
        config_dump::respond(&admin.process.snapshot(), query)
    })
    .with(config_dump::PARAMETERS),
    Endpoint::shows("/contention", "dump current contention stats (if enabled)", |_, _| profiling::contention()),
    Endpoint::changes("/cpuprofiler", "enable/disable the CPU profiler", |_, query| {
        profiling::switch(query, "cpu profiler")
    })
    .with(profiling::ENABLE),
    Endpoint::changes("/drain_listeners", "stop listening; running requests may finish", |admin, query| {
        for name in ["skip_exit", "inboundonly"] {
            if query.has(name) {
                return Answer::not_implemented(name);
            }
        }
        admin.process.drain_listeners();
        Answer::ok()
    })
    .with(&[Parameter::any("graceful", "As without: nothing is cut before the drain time is over")]),
    Endpoint::changes("/healthcheck/fail", "cause the server to fail health checks", |admin, _| {
        admin.process.fail_health_checks(true);
        Answer::ok()
    }),
    Endpoint::changes("/healthcheck/ok", "cause the server to pass health checks", |admin, _| {
        admin.process.fail_health_checks(false);
        Answer::ok()
    }),
    Endpoint::shows("/heap_dump", "dump current heap (if supported)", |_, _| profiling::unsupported("heap dump")),
    Endpoint::changes("/heapprofiler", "enable/disable the heap profiler", |_, _| {
        profiling::unsupported("heap profiler")
    })
    .with(profiling::ENABLE),
    Endpoint::shows("/help", "print out list of admin commands", |_, _| Answer::text(home::help())),
    Endpoint::shows("/hot_restart_version", "print the hot restart compatibility version", |admin, _| {
        Answer::text(format!("{}\n", admin.process.succession()))
    }),
    // What is not ready yet is not served: so whoever can ask finds everything initialised.
    Endpoint::shows("/init_dump", "dump current init manager information", |_, _| Answer::json("{}\n".to_owned()))
        .with(&[Parameter::any("mask", "The desired component to dump unready targets of")]),
    Endpoint::shows("/listeners", "print listener info", |admin, query| {
        listeners::respond(&admin.process.listening(), query)
    })
    .with(&[FORMAT]),
    Endpoint::shows("/logging", "print logging levels, or change them (POST)", |admin, query| {
        logging::respond(&*admin.process, query)
    })
    .changed_by(&[
        Parameter::any("paths", "Change several levels: <logger_name1>:<level1>,<logger_name2>:<level2>"),
        Parameter::one_of("level", "Change the level of all loggers", &LogLevel::NAMES),
    ]),
    Endpoint::shows("/memory", "print current memory usage", |_, _| server_info::memory()),
    Endpoint::shows("/memory/tcmalloc", "print TCMalloc stats", |_, _| profiling::unsupported("TCMalloc")),
    Endpoint::shows("/peak_heap_dump", "dump the heap as it was when largest (if supported)", |_, _| {
        profiling::unsupported("peak heap dump")
    }),
    Endpoint::changes("/quitquitquit", "exit the server", |admin, _| {
        admin.process.quit();
        Answer::ok()
    }),
    Endpoint::shows("/ready", "print server state, return 200 if LIVE, otherwise return 503", |admin, _| {
        server_info::ready(admin.process.state())
    }),
    Endpoint::changes("/reopen_logs", "reopen access logs", |admin, _| {
        admin.process.reopen_logs();
        Answer::ok()
    }),
    Endpoint::changes("/reset_counters", "reset all counters to zero", |admin, _| {
        admin.process.stats().reset_counters();
        Answer::ok()
    }),
    Endpoint::shows("/runtime", "print runtime values", |admin, _| runtime::show(&admin.process.snapshot().runtime)),
    Endpoint::changes(
        "/runtime_modify",
        "adds or modifies runtime values as passed in query parameters",
        |admin, query| runtime::modify(&*admin.process, query),
    ),
    Endpoint::shows("/server_info", "print server version/status information", |admin, _| {
        server_info::server_info(&*admin.process)
    }),
    Endpoint::shows("/stats", "print server stats", |admin, query| {
        stats::respond(admin.process.stats(), &admin.process.snapshot().bootstrap.stats, query)
    })
    .with(stats::PARAMETERS),
    Endpoint::shows("/stats/prometheus", "print server stats in prometheus format", |admin, query| {
        stats::prometheus(admin.process.stats(), &admin.process.snapshot().bootstrap.stats, query)
    })
    .with(stats::FILTERS),
    Endpoint::shows("/stats/recentlookups", "show recent stat-name lookups", |admin, _| {
        profiling::recent_lookups(admin.tracks_lookups.get())
    }),
    Endpoint::changes("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", |_, _| Answer::ok()),
    Endpoint::changes(
        "/stats/recentlookups/disable",
        "disable recording of reset stat-name lookup names",
        |admin, _| {
            admin.tracks_lookups.set(false);
            Answer::ok()
        },
    ),
    Endpoint::changes("/stats/recentlookups/enable", "enable recording of reset stat-name lookup names", |admin, _| {
        admin.tracks_lookups.set(true);
        Answer::ok()
    }),
];

/// The most bytes of a form.
const FORM_LIMIT: usize = 64 * 1024;

/// The admin interface of one process.
pub struct Admin {
    process: Rc<dyn Process>,
    /// The name of this machine.
    machine: String,
    stats: AdminStats,
    date: DateCache,
    /// Whether `/stats/recentlookups` was told to keep track.
    tracks_lookups: Cell<bool>,
}

impl Admin {
    /// The interface to `process`, which runs on the machine of this name.
    #[must_use]
    pub fn new(process: Rc<dyn Process>, machine: String) -> Self {
        let stats = AdminStats::new(&process.stats().scope("http.admin"));
        Self { process, machine, stats, date: DateCache::new(), tracks_lookups: Cell::new(false) }
    }

    /// Answers one request.
    pub async fn respond(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if let Err(refusal) = guard::check(&parts, &self.machine) {
            return Answer::text(format!("{refusal}\n")).with_status(StatusCode::FORBIDDEN).into_response();
        }
        match query_of(&parts, body).await {
            Ok(query) => self.dispatch(&parts, &query),
            Err(answer) => answer.into_response(),
        }
    }

    fn dispatch(&self, parts: &Parts, query: &Query) -> Response {
        let asked = parts.uri.path_and_query().map_or("", |asked| asked.as_str());
        if !self.allows(asked) {
            let body = format!("request to path {asked} not allowed");
            return Answer::text(body).with_status(StatusCode::FORBIDDEN).into_response();
        }
        let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == parts.uri.path()) else {
            let body = format!("invalid path. {}", home::help());
            return Answer::text(body).with_status(StatusCode::NOT_FOUND).into_response();
        };
        if endpoint.is_change(query) && parts.method != Method::POST {
            let body = format!("Method {} not allowed, POST required.", parts.method);
            let mut response = Answer::text(body).with_status(StatusCode::METHOD_NOT_ALLOWED).into_response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        (endpoint.respond)(self, query).into_response()
    }

    /// Whether the configuration has this path, which comes with its query string as in Envoy.
    fn allows(&self, asked: &str) -> bool {
        let snapshot = self.process.snapshot();
        let paths = &snapshot.bootstrap.admin_paths;
        paths.is_empty() || paths.iter().any(|path| path.matches(asked.as_bytes()))
    }
}

/// The parameters of a request: those of its URL, and those of the form in its body.
async fn query_of(parts: &Parts, body: Body) -> Result<Query, Answer> {
    let mut query = Query::parse(parts.uri.query().unwrap_or_default());
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if parts.method == Method::POST && content_type.starts_with(b"application/x-www-form-urlencoded") {
        let form = Limited::new(body, FORM_LIMIT).collect().await.map_err(|error| {
            Answer::text(format!("the form cannot be read: {error}\n")).with_status(StatusCode::BAD_REQUEST)
        })?;
        query.extend_from_form(&String::from_utf8_lossy(&form.to_bytes()));
    }
    Ok(query)
}

#[cfg(test)]
mod tests;
