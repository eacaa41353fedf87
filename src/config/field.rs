//! Where in a document a conversion stands, and what it finds wrong there.
//!
//! A [`Field`] is a path, linked from child to parent on the stack, and a [`Report`] that collects what goes wrong. A
//! conversion never stops at the first problem: it reports, returns `None`, and its siblings go on, so that one run shows
//! them all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::redact;
use crate::proto;

/// Everything that is wrong, or worth a warning, in one document.
#[derive(Debug, Default)]
pub struct Report {
    problems: RefCell<Vec<Problem>>,
    /// How many of the problems come from earlier readings of the document.
    settled: Cell<usize>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Whether the document is refused for it.
    pub severity: Severity,
    /// From the document's root to the value.
    pub path: Vec<Segment>,
    /// The name of the last field itself is wrong, not its value.
    pub on_key: bool,
    /// The reason, in the words of the person who wrote the document.
    pub message: String,
    /// Another place that the problem is about, too.
    pub beside: Option<Vec<Segment>>,
    /// The byte of the document, where the path does not tell the place.
    pub(super) at: Option<usize>,
}

/// Whether a document is refused for a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted.
    Warning,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A field of a message.
    Key(String),
    /// An element of a list.
    Index(usize),
    /// An entry of a map.
    Entry(String),
}

impl Report {
    /// A report without problems.
    #[must_use]
    pub fn new() -> Report {
        Report::default()
    }

    /// Adds one problem, unless it is an error that follows from one of an earlier reading.
    pub fn push(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        let follows = problem.severity == Severity::Error
            && problems[..self.settled.get()].iter().any(|earlier| earlier.causes(&problem));
        if !follows {
            problems.push(problem);
        }
    }

    /// The document has been read once: errors that the next reading finds above or below known ones are not worth telling.
    pub(super) fn settle(&self) {
        self.settled.set(self.problems.borrow().len());
    }

    /// Whether the document must be refused.
    pub fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }

    /// What was found, in the order it was found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

impl Problem {
    /// The path alone, as [`fmt::Display`] shows it before the reason.
    #[must_use]
    pub fn location(&self) -> String {
        PathDisplay(&self.path).to_string()
    }

    /// Whether `later`, above or below this error, is probably its consequence.
    fn causes(&self, later: &Problem) -> bool {
        let common = self.path.len().min(later.path.len());
        self.severity == Severity::Error && self.path[..common] == later.path[..common]
    }

    /// The document cannot be parsed.
    pub(super) fn of_syntax(message: String, at: usize) -> Problem {
        Problem { severity: Severity::Error, path: Vec::new(), on_key: false, message, beside: None, at: Some(at) }
    }
}

impl fmt::Display for Problem {
    /// `static_resources.listeners[0].address: is required`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", PathDisplay(&self.path), self.message)?;
        self.beside.as_ref().map_or(Ok(()), |other| write!(f, ": {}", PathDisplay(other)))
    }
}

/// `listeners[0].typed_per_filter_config["envoy.filters.http.cors"]`
struct PathDisplay<'a>(&'a [Segment]);

impl fmt::Display for PathDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(name) if position == 0 => f.write_str(name)?,
                Segment::Key(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Entry(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// A place in a document. Cheap: its parents stay on the stack and the path is written out only for a problem.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    report: &'a Report,
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
    Entry(&'a str),
}

impl<'a> Field<'a> {
    /// The document itself.
    pub fn root(report: &'a Report) -> Field<'a> {
        Field { report, parent: None, step: Step::Root }
    }

    /// A field of this message, by its proto name.
    #[must_use]
    pub fn key(&'a self, name: &'a str) -> Field<'a> {
        self.child(Step::Key(name))
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Field<'a> {
        self.child(Step::Index(index))
    }

    /// An entry of this map.
    #[must_use]
    pub fn entry(&'a self, key: &'a str) -> Field<'a> {
        self.child(Step::Entry(key))
    }

    fn child(&'a self, step: Step<'a>) -> Field<'a> {
        Field { report: self.report, parent: Some(self), step }
    }

    /// From the document's root to this place.
    #[must_use]
    pub fn path(&self) -> Vec<Segment> {
        let mut path = Vec::new();
        let mut place = Some(self);
        while let Some(field) = place {
            match field.step {
                Step::Root => {}
                Step::Key(name) => path.push(Segment::Key(name.to_owned())),
                Step::Index(index) => path.push(Segment::Index(index)),
                Step::Entry(key) => path.push(Segment::Entry(key.to_owned())),
            }
            place = field.parent;
        }
        path.reverse();
        path
    }

    /// The document is refused because of what stands here.
    pub fn error(&self, reason: impl Into<String>) {
        self.push(Severity::Error, reason.into());
    }

    /// The document is accepted, but its author should know.
    pub fn warning(&self, reason: impl Into<String>) {
        self.push(Severity::Warning, reason.into());
    }

    /// A warning that is about another place, too.
    pub fn warning_beside(&self, reason: impl Into<String>, other: &Field<'_>) {
        let (severity, beside) = (Severity::Warning, Some(other.path()));
        self.report.push(Problem {
            severity,
            path: self.path(),
            on_key: false,
            message: reason.into(),
            beside,
            at: None,
        });
    }

    /// The name of the field, at byte `at`, is wrong itself.
    pub(super) fn error_on_key(&self, message: String, at: Option<usize>) {
        self.report.push(Problem {
            severity: Severity::Error,
            path: self.path(),
            on_key: true,
            message,
            beside: None,
            at,
        });
    }

    fn push(&self, severity: Severity, message: String) {
        self.report.push(Problem { severity, path: self.path(), on_key: false, message, beside: None, at: None });
    }

    /// Whether what stands here, or around it, must not be shown.
    pub(super) fn is_secret(&self) -> bool {
        let here = match self.step {
            Step::Key(name) | Step::Entry(name) => redact::is_secret(name),
            Step::Root | Step::Index(_) => false,
        };
        here || self.parent.is_some_and(Field::is_secret)
    }

    /// A setting that Envoy has and Portreeve has not yet: an error if it is set. For settings that, ignored, would change who
    /// gets in or where traffic goes.
    pub fn unsupported(&self, name: &'static str, value: &impl IsSet) {
        if value.is_set() {
            self.key(name).error("valid in Envoy, not implemented by Portreeve yet");
        }
    }

    /// A setting that Envoy has and that has no effect here: a warning if it is set.
    pub fn ignored(&self, name: &'static str, value: &impl IsSet, why: &'static str) {
        if value.is_set() {
            self.key(name).warning(format!("has no effect: {why}"));
        }
    }

    /// The value, or an error that it is missing.
    pub fn required<'v, T>(&self, name: &'static str, value: &'v Option<T>) -> Option<&'v T> {
        if value.is_none() {
            self.key(name).error("is required");
        }
        value.as_ref()
    }

    /// The duration if it is set and in range; an error if it is negative or too long.
    pub fn duration(&self, name: &'static str, value: &Option<proto::Duration>) -> Option<Duration> {
        let value = value.as_ref()?;
        let duration = proto::std_duration(value);
        if duration.is_none() {
            self.key(name).error("must be a duration of 0s to 315576000000s");
        }
        duration
    }

    /// The message inside an `Any`; an error if it is of another type or damaged.
    pub fn unpack<M: prost::Message + prost::Name + Default>(&self, any: &proto::Any) -> Option<M> {
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found != M::full_name() {
            self.error(format!("expected {}, found {found:?}", M::full_name()));
            return None;
        }
        match M::decode(any.value.as_slice()) {
            Ok(message) => Some(message),
            Err(error) => {
                self.error(format!("not a valid {found}: {error}"));
                None
            }
        }
    }
}

/// Whether a proto field says anything. Scalars without presence say something if they differ from their default, as on the
/// wire.
pub trait IsSet {
    /// Whether the document sets the field.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V, S> IsSet for HashMap<K, V, S> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for i64 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u64 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for f32 {
    fn is_set(&self) -> bool {
        *self != 0.0
    }
}

impl IsSet for f64 {
    fn is_set(&self) -> bool {
        *self != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(report: Report) -> Vec<String> {
        report.into_problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn problems_name_their_path() {
        let report = Report::new();
        let root = Field::root(&report);
        root.key("static_resources").key("listeners").index(2).key("address").error("is required");
        root.key("typed_per_filter_config").entry("envoy.filters.http.cors").warning("is old");
        root.error("no such document");
        assert!(report.has_errors());
        assert_eq!(
            messages(report),
            [
                "static_resources.listeners[2].address: is required",
                "typed_per_filter_config[\"envoy.filters.http.cors\"]: is old",
                "no such document",
            ]
        );
    }

    #[test]
    fn settings_that_are_not_set_are_not_reported() {
        let report = Report::new();
        let root = Field::root(&report);
        root.unsupported("a", &None::<u32>);
        root.unsupported("b", &String::new());
        root.ignored("c", &0_u32, "not here");
        root.ignored("d", &vec![1], "not here");
        assert!(!report.has_errors());
        root.unsupported("e", &true);
        assert!(report.has_errors());
        assert_eq!(
            messages(report),
            ["d: has no effect: not here", "e: valid in Envoy, not implemented by Portreeve yet"]
        );
    }

    #[test]
    fn consequences_of_settled_errors_are_dropped() {
        let report = Report::new();
        let root = Field::root(&report);
        let (a, b) = (root.key("a"), root.key("b"));
        a.key("x").error("is no number");
        a.error("is told in the same reading");
        report.settle();
        a.key("x").key("y").error("is below");
        a.error("is above");
        a.warning("is no error");
        b.error("is elsewhere");
        assert_eq!(
            messages(report),
            ["a.x: is no number", "a: is told in the same reading", "a: is no error", "b: is elsewhere"]
        );
    }

    #[test]
    fn required_and_duration_report_at_the_child() {
        let report = Report::new();
        let root = Field::root(&report);
        assert_eq!(root.required("a", &None::<u32>), None);
        assert_eq!(root.required("b", &Some(1)), Some(&1));
        assert_eq!(root.duration("c", &None), None);
        assert_eq!(root.duration("d", &Some(proto::Duration { seconds: -1, nanos: 0 })), None);
        assert_eq!(root.duration("e", &Some(proto::Duration { seconds: 1, nanos: 0 })), Some(Duration::from_secs(1)));
        assert_eq!(messages(report), ["a: is required", "d: must be a duration of 0s to 315576000000s"]);
    }

    #[test]
    fn unpack_checks_the_type() {
        let any = envoy_types::util::pack_any(proto::router_filter::Router::default());
        let report = Report::new();
        let root = Field::root(&report);
        assert!(root.unpack::<proto::router_filter::Router>(&any).is_some());
        assert!(root.unpack::<proto::cors_filter::Cors>(&any).is_none());
        let damaged = proto::Any { value: vec![0xff], ..any };
        assert!(root.unpack::<proto::router_filter::Router>(&damaged).is_none());
        let messages = messages(report);
        assert_eq!(
            messages[0],
            "expected envoy.extensions.filters.http.cors.v3.Cors, \
             found \"envoy.extensions.filters.http.router.v3.Router\""
        );
        assert_eq!(messages.len(), 2);
    }
}
