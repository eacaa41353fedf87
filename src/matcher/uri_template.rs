//! URI templates (`envoy.extensions.path.match.uri_template`): paths with named variables, such as `/users/{id}/{rest=**}`.
//!
//! A template is a list of segments: literals, `*` (one segment), `**` (any number of them), and variables, which are one of these with
//! a name, and may have literals before and behind. It matches a path as a whole.

use regex::bytes;

/// What a literal may hold, and `*` matches: the characters of a segment (RFC 3986).
const CHARACTERS: &str = "a-zA-Z0-9-._~%!$&'()+,;:@=*";
const MAX_VARIABLES: usize = 5;
const MAX_VARIABLE_NAME: usize = 16;

/// A compiled template.
#[derive(Clone, Debug)]
pub struct UriTemplate {
    pattern: bytes::Regex,
}

impl UriTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(template: &str) -> Result<UriTemplate, String> {
        let Some(mut rest) = template.strip_prefix('/').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_graphic()))
        else {
            return Err("must start with a slash and hold visible characters only".to_owned());
        };
        let mut parser = Parser::default();
        let mut expression = String::from("\\A/");
        while !rest.is_empty() {
            rest = parser.segment(rest, &mut expression)?;
            match rest.strip_prefix('/') {
                Some(after) => {
                    expression.push('/');
                    rest = after;
                }
                None if rest.is_empty() => {}
                // Only the last segment may go on after a wildcard.
                None => return Err("a wildcard in the middle stands for whole segments".to_owned()),
            }
        }
        expression.push_str("\\z");
        let pattern = bytes::RegexBuilder::new(&expression).unicode(false).build();
        pattern.map(|pattern| UriTemplate { pattern }).map_err(|error| error.to_string())
    }

    /// Whether the path, without its query, matches.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.pattern.is_match(path)
    }

    /// The names of the variables, in their order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.pattern.capture_names().flatten()
    }

    /// What the variables stand for in a path that matches.
    #[must_use]
    pub fn captures<'p>(&self, path: &'p [u8]) -> Option<bytes::Captures<'p>> {
        self.pattern.captures(path)
    }
}

/// What has been seen of a template.
#[derive(Default)]
struct Parser<'t> {
    variables: Vec<&'t str>,
    /// Nothing that matches by itself may follow `**`.
    has_text_glob: bool,
}

impl<'t> Parser<'t> {
    /// Translates one segment; answers what follows it.
    fn segment(&mut self, template: &'t str, expression: &mut String) -> Result<&'t str, String> {
        if template.starts_with('*') {
            let rest = self.wildcard(template, expression)?;
            return if rest.is_empty() || rest.contains('/') { Ok(rest) } else { Self::literal(rest, '/', expression) };
        }
        let mut rest = template;
        if !rest.starts_with('{') {
            rest = Self::literal(rest, '{', expression)?;
        }
        if rest.starts_with('{') {
            rest = self.variable(rest, expression)?;
            if !rest.is_empty() && !rest.starts_with('/') {
                rest = Self::literal(rest, '/', expression)?;
            }
        }
        Ok(rest)
    }

    fn wildcard(&mut self, template: &'t str, expression: &mut String) -> Result<&'t str, String> {
        if self.has_text_glob {
            return Err("nothing but literals may follow **".to_owned());
        }
        if let Some(rest) = template.strip_prefix("**") {
            self.has_text_glob = true;
            expression.extend(["[", CHARACTERS, "/]*"]);
            return Ok(rest);
        }
        expression.extend(["[", CHARACTERS, "]+"]);
        Ok(&template[1..])
    }

    /// A literal ends with its segment, or at `end`.
    fn literal(template: &'t str, end: char, expression: &mut String) -> Result<&'t str, String> {
        let (literal, rest) = template.split_at(template.find(['/', end]).unwrap_or(template.len()));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(&byte);
        if literal.is_empty() || !literal.bytes().all(allowed) {
            return Err(format!("{literal:?} is not a valid literal"));
        }
        expression.push_str(&regex::escape(literal));
        Ok(rest)
    }

    fn variable(&mut self, template: &'t str, expression: &mut String) -> Result<&'t str, String> {
        let Some((variable, rest)) = template[1..].split_once('}') else {
            return Err("a bracket is not closed".to_owned());
        };
        let (name, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic());
        if !starts || name.len() > MAX_VARIABLE_NAME || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("{name:?} is not a valid name of a variable"));
        }
        if self.variables.contains(&name) {
            return Err(format!("the variable {name:?} stands twice"));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(format!("has more than {MAX_VARIABLES} variables"));
        }
        self.variables.push(name);
        expression.extend(["(?P<", name, ">"]);
        self.pattern(pattern, expression)?;
        expression.push(')');
        Ok(rest)
    }

    /// What a variable stands for.
    fn pattern(&mut self, mut pattern: &'t str, expression: &mut String) -> Result<(), String> {
        loop {
            pattern = if pattern.starts_with('*') {
                self.wildcard(pattern, expression)?
            } else {
                Self::literal(pattern, '/', expression)?
            };
            match pattern.strip_prefix('/') {
                _ if pattern.is_empty() => return Ok(()),
                Some(after) => {
                    expression.push('/');
                    pattern = after;
                }
                None => return Err("a variable stands for whole segments".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for (template, path, matches) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/", "/", true),
            ("/*", "/", false),
            ("/*", "/x", true),
            ("/*/c", "/b/c", true),
            ("/*/c", "/a/b/c", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/a/**", "/a", false),
            ("/a/**/z", "/a/b/c/z", true),
            ("/{x}", "/1", true),
            ("/{x}/y", "/1/2/y", false),
            ("/{rest=**}", "/a/b", true),
            ("/v/{p=a/*/b}", "/v/a/1/b", true),
            ("/{f=**}.m3u8", "/v/x.m3u8", true),
            ("/{f=**}.m3u8", "/v/x_m3u8", false),
            ("/*", "/a=b", true),
            ("/a{x}b/c", "/a1b/c", true),
            ("/a{x}b/c", "/ab/c", false),
            ("/{x}y/z", "/1y/z", true),
            ("/a*", "/a*", true),
            ("/a*", "/ab", false),
            ("/*.js", "/x.js", true),
            ("/a.b", "/axb", false),
        ] {
            let compiled = UriTemplate::parse(template).unwrap();
            assert_eq!(compiled.matches(path.as_bytes()), matches, "{template} {path}");
        }
    }

    #[test]
    fn variables_are_captured() {
        let template = UriTemplate::parse("/{kind}/{id}/{rest=**}").unwrap();
        assert_eq!(template.variables().collect::<Vec<_>>(), ["kind", "id", "rest"]);
        let captures = template.captures(b"/users/7/a/b").unwrap();
        assert_eq!(&captures["rest"], b"a/b");
    }

    #[test]
    fn bad_templates_are_refused() {
        for template in [
            "",
            "a",
            "/a b",
            "/a//b",
            "/**/*",
            "/**/{x}",
            "/{x=**}/{y}",
            "/{x",
            "/{1x}",
            "/{x=}",
            "/{x}/{x}",
            "/{seventeen_letters}",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/{x}{y}",
            "/{x}y{z}",
            "/*a/b",
            "/a|b",
            "/{x=a/}",
            "/{x=*y}",
        ] {
            assert!(UriTemplate::parse(template).is_err(), "{template}");
        }
    }
}
