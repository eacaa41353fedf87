//! `portreeve workers`: see and change what is registered with a running Portreeve.
//!
//! A plain client of the registration API, for people and scripts.

mod client;
mod register;
mod show;

use std::{io, process::ExitCode, time::Duration};

use clap::{Subcommand, ValueEnum};
use tokio::time::sleep;
use tonic::{Code, Status};

pub use client::{Client, Server};

use super::EXIT_FAILURE;
use crate::proto::{
    self,
    registration::{
        DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, ListRequest, RegisterResponse, Registration,
    },
};

/// How often, and after what time, a call is made again that a process has left to the next one.
const ATTEMPTS: u32 = 10;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The options of `portreeve workers`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The token stands in --token-file or in the environment variable PORTREEVE_TOKEN.\n\n\
        Exit status: 0 success; 1 the call failed or was refused; 2 wrong usage.",
    after_long_help = "Examples:\n  \
        portreeve workers list --ca ca.pem --token-file token\n  \
        portreeve workers register w1 --service query --to 10.0.0.7:8080 --path /worker/w1\n  \
        portreeve workers register w2 --service query --to 10.0.0.8:8443 --protocol h2 --tls --header envoy-prefix=w2\n  \
        portreeve workers drain w1\n  \
        portreeve workers remove w1 --drain-time 10s\n\n\
        The token stands in --token-file or in the environment variable PORTREEVE_TOKEN.\n\n\
        Exit status:\n  0  success\n  1  the call failed or was refused\n  2  wrong usage"
)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// How to print what the server answers
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// How answers look.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs: the messages of the API as protobuf JSON
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Show what is registered
    List {
        /// Only workers of this service
        #[arg(long, default_value = "")]
        service: String,
        /// Only workers that this caller registered
        #[arg(long, default_value = "")]
        owner: String,
    },
    /// Register a worker, or change its registration
    Register(Box<register::Args>),
    /// Send a worker no new requests; running ones finish
    Drain {
        /// The worker's id
        #[arg(value_name = "ID")]
        worker_id: String,
    },
    /// Drain a worker and end its registration
    Remove {
        /// The worker's id
        #[arg(value_name = "ID")]
        worker_id: String,
        /// How long running requests may take, such as 10s, 5m or 0s; the default is the server's, 30s
        #[arg(long, value_parser = duration, value_name = "TIME")]
        drain_time: Option<Duration>,
    },
}

/// What a call answered.
enum Answer {
    Listed(Vec<Registration>),
    Registered(RegisterResponse),
    Drained(Box<DrainResponse>),
    Removed(DeregisterResponse),
}

impl Args {
    /// Makes one call and prints its answer, or why it was refused.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Args { server, format, command } = self;
        let outcome = runtime.block_on(async move {
            let mut attempts = 0;
            loop {
                let outcome = command.clone().call(&mut server.connect().await?).await;
                attempts += 1;
                match outcome {
                    Err(error) if attempts < ATTEMPTS && is_unavailable(&error) => sleep(RETRY_INTERVAL).await,
                    outcome => return outcome,
                }
            }
        });
        match outcome {
            Ok(answer) => {
                show::answer(&mut io::stdout().lock(), &answer, format)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => match error.downcast::<Status>() {
                Ok(status) => {
                    show::refusal(&mut io::stderr().lock(), &status)?;
                    Ok(ExitCode::from(EXIT_FAILURE))
                }
                Err(error) => Err(error),
            },
        }
    }
}

impl Command {
    async fn call(self, client: &mut Client) -> anyhow::Result<Answer> {
        Ok(match self {
            Command::List { service, owner } => Answer::Listed(list(client, service, owner).await?),
            Command::Register(args) => Answer::Registered(client.register(args.request()?).await?.into_inner()),
            Command::Drain { worker_id } => {
                let request = DrainRequest { worker_id, lease_id: String::new() };
                Answer::Drained(Box::new(client.drain(request).await?.into_inner()))
            }
            Command::Remove { worker_id, drain_time } => {
                let drain_time = drain_time.map(proto::duration);
                let request = DeregisterRequest { worker_id, lease_id: String::new(), drain_time };
                Answer::Removed(client.deregister(request).await?.into_inner())
            }
        })
    }
}

/// Whether a call may have fallen into a hand-off, in which a process turns it away without looking at it: the next one takes it.
fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::Unavailable)
}

/// All pages of a list.
async fn list(client: &mut Client, service: String, owner: String) -> Result<Vec<Registration>, Status> {
    let mut registrations = Vec::new();
    let mut request = ListRequest { service, owner, ..ListRequest::default() };
    loop {
        let page = client.list(request.clone()).await?.into_inner();
        registrations.extend(page.registrations);
        if page.next_page_token.is_empty() {
            return Ok(registrations);
        }
        request.page_token = page.next_page_token;
    }
}

/// A time such as `500ms`, `30s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "must be a number and a unit, such as 30s")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err("must end with ms, s, m or h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        for wrong in ["", "5", "s", "5d", "-1s", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
