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
    /// The same for an escaped slash; logs show the path with it decoded.
    RejectUnescaped(String),
}

/// Normalises `path_and_query`, in Envoy's order: escaped slashes, RFC 3986, adjacent slashes. A fragment is refused.
#[must_use]
pub fn normalize(path_and_query: &str, rules: PathRules) -> Normalized<'_> {
    if path_and_query.contains('#') {
        return Normalized::Reject;
    }
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (original, query) = path_and_query.split_at(end);
    if !original.starts_with('/') {
        return Normalized::Forward(path_and_query.into());
    }

    let mut path = Cow::Borrowed(original);
    let mut redirect = false;
    if rules.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&path)
    {
        if rules.escaped_slashes == EscapedSlashes::Reject {
            return Normalized::RejectUnescaped(unescaped + query);
        }
        redirect = rules.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
        path = unescaped.into();
    }
    if rules.normalize_path && !is_normal(&path) {
        match remove_dot_segments(&path) {
            Some(normal) => path = normal.into(),
            None => return Normalized::Reject,
        }
    }
    if rules.merge_slashes && path.contains("//") {
        path = merge_slashes(&path).into();
    }

    let result = match path {
        Cow::Borrowed(_) => Cow::Borrowed(path_and_query),
        Cow::Owned(path) => Cow::Owned(path + query),
    };
    if redirect { Normalized::Redirect(result.into_owned()) } else { Normalized::Forward(result) }
}

/// The path with `%2F` and `%5C` decoded; None if it has neither.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut result = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let slash = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"2f" | b"2F") => "/",
            Some(b"5c" | b"5C") => "\\",
            _ => "%",
        };
        result.push_str(&rest[..at]);
        result.push_str(slash);
        rest = &rest[at + if slash == "%" { 1 } else { 3 }..];
    }
    result.push_str(rest);
    (result != path).then_some(result)
}

/// Whether [`remove_dot_segments`] would return the path as it is; may err on the side of no.
fn is_normal(path: &str) -> bool {
    !path.bytes().any(|byte| matches!(byte, b'%' | b'\\') || is_escaped(byte)) && !path.contains("/.")
}

/// Bytes that a normal path has only in percent-encoded form.
fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}') || !byte.is_ascii_graphic()
}

/// The path without `.` and `..` segments, with `\` as `/`, unreserved characters decoded and forbidden ones encoded; None
/// if it holds a NUL, encoded or not.
///
/// A segment's parameters (`..;a=b`) do not hide its dots: servers that know parameters would see through them.
fn remove_dot_segments(path: &str) -> Option<String> {
    let mut result = String::with_capacity(path.len());
    let mut segments = path[1..].split(['/', '\\']).peekable();
    result.push('/');
    while let Some(segment) = segments.next() {
        let start = result.len();
        push_normalized(&mut result, segment)?;
        match result[start..].split(';').next() {
            Some(".") => result.truncate(start),
            Some("..") => {
                result.truncate(start);
                let parent = result[..start - 1].rfind('/').map_or(1, |slash| slash + 1);
                result.truncate(parent);
            }
            _ if segments.peek().is_some() => result.push('/'),
            _ => {}
        }
    }
    Some(result)
}

fn push_normalized(result: &mut String, segment: &str) -> Option<()> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let decoded = bytes.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(decode_hex);
        match decoded {
            Some(0) => return None,
            None if byte == 0 => return None,
            Some(unreserved) if unreserved.is_ascii_alphanumeric() || b"-._~".contains(&unreserved) => {
                result.push(unreserved.into());
                at += 3;
            }
            _ => {
                if is_escaped(byte) {
                    for part in [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]] {
                        result.push(part.into());
                    }
                } else {
                    result.push(byte.into());
                }
                at += 1;
            }
        }
    }
    Some(())
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn decode_hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

fn merge_slashes(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !result.ends_with('/') {
            result.push(character);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMALIZE: PathRules =
        PathRules { normalize_path: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
    const MERGE: PathRules =
        PathRules { normalize_path: false, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };

    fn forward(path: &str, rules: PathRules) -> String {
        match normalize(path, rules) {
            Normalized::Forward(path) => path.into_owned(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn nothing_is_touched_by_default() {
        for path in ["/", "//", "/a//b", "/a/../b", "/a%2fb", "/%7e", "/a\\b", "/a?b=//../#".trim_end_matches('#'), "*"]
        {
            assert_eq!(normalize(path, PathRules::default()), Normalized::Forward(Cow::Borrowed(path)));
        }
    }

    #[test]
    fn normalizes_as_envoy_does() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("/a///..//b", "/a///b"),
            ("/%2e%2e/a", "/a"),
            ("/a/%2E./b", "/b"),
            ("/a/%2e", "/a/"),
            ("/a%2fb", "/a%2fb"),
            ("/a%5cb", "/a%5cb"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/%41%7e", "/A~"),
            ("/%2d%61", "/-a"),
            ("/%3f", "/%3f"),
            ("/%2", "/%2"),
            ("/%", "/%"),
            ("/%zz", "/%zz"),
            ("/%+1", "/%+1"),
            ("/a%20b", "/a%20b"),
            ("/a\"b", "/a%22b"),
            ("/a<b>", "/a%3Cb%3E"),
            ("/a{b}|^`", "/a%7Bb%7D%7C%5E%60"),
            ("/a'b;c=d:e@f[g]!$&()*,-._+", "/a'b;c=d:e@f[g]!$&()*,-._+"),
            ("/%C3%A9%e2%7f", "/%C3%A9%e2%7f"),
            ("/a/../b?q=/../y//", "/b?q=/../y//"),
            ("/a/..?", "/?"),
            ("/...", "/..."),
            ("/a/.b/..c", "/a/.b/..c"),
            ("/a/.;/b", "/a/b"),
            ("/a/..;x=y;z/b", "/b"),
            ("/a/...;x/b", "/a/...;x/b"),
            ("/a/;../b", "/a/;../b"),
            ("/..;", "/"),
            ("/;/../a", "/a"),
            ("/x/..%3b/b", "/x/..%3b/b"),
            ("*", "*"),
        ] {
            assert_eq!(forward(path, NORMALIZE), expected, "{path}");
        }
        assert_eq!(normalize("/%00", NORMALIZE), Normalized::Reject);
        assert_eq!(normalize("/a#b", PathRules::default()), Normalized::Reject);
    }

    #[test]
    fn parameters_do_not_hide_encoded_dots() {
        assert_eq!(forward("/a/.%2e;/c", NORMALIZE), "/c");
    }

    #[test]
    fn normalizing_twice_is_normalizing_once() {
        for path in ["/a/.%2e/%252e", "/%2e%2e%2f../x", "/a\\%5c..", "/.%2e;/..;/%7B{"] {
            let once = forward(path, NORMALIZE);
            assert_eq!(forward(&once, NORMALIZE), once, "{path}");
        }
    }

    #[test]
    fn merges_slashes_after_normalizing() {
        for (path, expected) in [("//a", "/a"), ("/a//../b", "/a/../b"), ("/a/b//", "/a/b/"), ("/a?q=//", "/a?q=//")] {
            assert_eq!(forward(path, MERGE), expected);
        }
        let both = PathRules { merge_slashes: true, ..NORMALIZE };
        assert_eq!(forward("/a///..//b", both), "/a/b");
    }

    #[test]
    fn escaped_slashes() {
        let rules = |escaped_slashes| PathRules { escaped_slashes, ..PathRules::default() };
        assert_eq!(forward("/a%2fb%5Cc?%2f", rules(EscapedSlashes::UnescapeAndForward)), "/a/b\\c?%2f");
        assert_eq!(forward("/a%20b", rules(EscapedSlashes::Reject)), "/a%20b");
        let rejected = normalize("/a%5cb?c", rules(EscapedSlashes::Reject));
        assert_eq!(rejected, Normalized::RejectUnescaped("/a\\b?c".to_owned()));

        let redirect = PathRules {
            normalize_path: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
        };
        assert_eq!(normalize("/a/%2e%2e%2f/b?q", redirect), Normalized::Redirect("/b?q".to_owned()));
        assert_eq!(forward("/a/../b", redirect), "/b");
    }
}
