//! Path normalisation before routing, as the connection manager's settings ask for. The query is never touched.

use std::borrow::Cow;

/// The settings of an HTTP connection manager that decide about paths.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathRules {
    /// Remove `.` and `..` segments and decode unreserved characters (RFC 3986, section 6).
    pub normalize_path: bool,
    /// Collapse adjacent slashes. Off by default: `//` passes untouched.
    pub merge_slashes: bool,
    /// What to do with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// `path_with_escaped_slashes_action`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum EscapedSlashes {
    /// Leave them.
    #[default]
    Keep,
    /// Refuse the request with 400.
    Reject,
    /// Answer 307 with the decoded path.
    UnescapeAndRedirect,
    /// Decode them and go on.
    UnescapeAndForward,
}

/// What becomes of a request by its path.
#[derive(Debug, Eq, PartialEq)]
pub enum Normalized<'a> {
    /// Go on with this path and query; borrowed if it is the original.
    Forward(Cow<'a, str>),
    /// Answer 307 with this `location`.
    Redirect(String),
    /// Answer 400, details `path_normalization_failed`.
    Reject,
}

/// Normalises `path_and_query`.
#[must_use]
pub fn normalize(path_and_query: &str, rules: PathRules) -> Normalized<'_> {
    let _ = (path_and_query, rules);
    todo!()
}
