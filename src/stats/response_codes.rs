//! Counters by response code, registered when a code first occurs.

use std::sync::OnceLock;

use super::{Counter, Scope};

/// The counters `<name>_200`, `<name>_503`, ... and their classes `<name>_2xx`, `<name>_5xx`, ... of one scope.
///
/// Envoy makes these when a code is first seen, and so does this: from then on, counting takes no lock.
#[derive(Debug)]
pub struct ResponseCodes {
    scope: Scope,
    name: &'static str,
    classes: [OnceLock<Counter>; CLASSES],
    /// By tens, because few of the five hundred possible codes ever occur.
    tens: [OnceLock<Box<Ten>>; CLASSES * 10],
}

type Ten = [OnceLock<Counter>; 10];

/// 1xx to 5xx.
const CLASSES: usize = 5;

impl ResponseCodes {
    /// The response codes of `scope`, as stats whose names begin with `name`, such as `upstream_rq`.
    #[must_use]
    pub fn new(scope: &Scope, name: &'static str) -> Self {
        let (classes, tens) = ([const { OnceLock::new() }; CLASSES], [const { OnceLock::new() }; CLASSES * 10]);
        Self { scope: scope.clone(), name, classes, tens }
    }

    /// Counts one response with status `code`; one outside 100 to 599 has no stat.
    pub fn inc(&self, code: u16) {
        if !(100..600).contains(&code) {
            return;
        }
        let (class, offset) = (usize::from(code / 100), usize::from(code - 100));
        self.classes[class - 1].get_or_init(|| self.scope.counter(&format!("{}_{class}xx", self.name))).inc();
        self.tens[offset / 10].get_or_init(Box::default)[offset % 10]
            .get_or_init(|| self.scope.counter(&format!("{}_{code}", self.name)))
            .inc();
    }
}
