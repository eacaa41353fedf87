//! The client's side of the control socket.

use std::path::Path;

use anyhow::Context;

use crate::server::control::{self, Answer, Question};

/// Where the packaged service has it.
pub const PATH: &str = "/run/portreeve/control.sock";

/// Asks the running process.
pub fn ask(path: &Path, question: Question) -> anyhow::Result<Answer> {
    control::ask(path, question).with_context(|| {
        format!(
            "no answer by the control socket {} (is portreeve running, with --control-path or as a service?)",
            path.display()
        )
    })
}
