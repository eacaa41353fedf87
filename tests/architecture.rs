//! The rules of docs/architecture.md and docs/style.md that can be checked by reading the sources, checked.
//!
//! The sources are read as text with comments and literals blanked out (`Source::code`), so that a rule sees code only.
//! Each rule is one test and lists every violation as `file:line: what`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

/// The layers, lowest first. A module imports from lines above its own, and from itself: never from its own line's
/// neighbours, never from below.
const LAYERS: &[&[&str]] = &[
    &["proto", "sys", "stats"],
    &["config"],
    &["runtime"],
    &["net", "matcher", "drain"],
    &["stream_info"],
    &["access_log", "tls"],
    &["http"],
    &["upstream", "route"],
    &["filter"],
    &["router"],
    &["http_filters"],
    &["conn_manager"],
    &["network_filters"],
    &["listener"],
    &["snapshot"],
    &["registration", "admin"],
    &["server"],
    &["cli"],
];

/// Crates that may be replaced one day, and the only places (a file, or a directory) that name them.
const CONFINED: &[(&str, &[&str])] = &[
    ("hyper", &["src/http/body.rs", "src/http/upgrade.rs", "src/upstream/conn_pool/http1.rs"]),
    ("hyper_util", &["src/http/upgrade.rs", "src/upstream/conn_pool/http1.rs", "src/cli/workers"]),
    ("h2", &["src/http/body.rs", "src/http/http2", "src/upstream/conn_pool"]),
    ("rustls", &["src/tls"]),
    ("tokio_rustls", &["src/tls", "src/net/io.rs"]),
    ("rustls_pemfile", &["src/tls/pem.rs"]),
    ("serde_yaml", &["src/config/tree.rs"]),
    ("tonic", &["src/registration", "src/cli"]),
];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;

#[test]
fn modules_import_only_from_lower_layers() {
    let layer = |module: &str| LAYERS.iter().position(|names| names.contains(&module));
    let mut found = Violations::default();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        let Some(own) = layer(&module) else {
            found.add(&source, 0, format!("module `{module}` has no layer"));
            continue;
        };
        for (at, name) in source.crate_imports() {
            if name != module && layer(&name).is_some_and(|other| other >= own) {
                found.add(&source, at, format!("`{module}` may not use `{name}`"));
            }
        }
        let depth = source.path.components().count() - 1 - usize::from(source.path.ends_with("mod.rs"));
        for (at, _) in source.production().match_indices(&"super::".repeat(depth)) {
            found.add(&source, at, "leaves its module by `super`: write `crate::`");
        }
    }
    found.none();
}

#[test]
fn the_map_in_lib_rs_is_the_layer_table() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let map: Vec<Vec<&str>> = lib
        .split("\n\n")
        .map(|group| group.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect())
        .filter(|group: &Vec<&str>| !group.is_empty())
        .collect();
    let table: Vec<Vec<&str>> = LAYERS
        .iter()
        .rev()
        .map(|names| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        })
        .collect();
    assert_eq!(map, table);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut found = Violations::default();
    for source in sources() {
        let lines = source.production().lines().count();
        if lines > FILE_LINES {
            found.add(&source, 0, format!("{lines} lines without tests, more than {FILE_LINES}"));
        }
        if !source.text.starts_with("//!") {
            found.add(&source, 0, "does not open with `//!`");
        }
        let vague = ["util", "utils", "common", "helper", "helpers", "types", "misc"];
        if source.path.iter().any(|part| vague.contains(&part.to_string_lossy().trim_end_matches(".rs"))) {
            found.add(&source, 0, "has a name that says nothing");
        }
    }
    found.none();
}

#[test]
fn functions_fit_a_screen() {
    let mut found = Violations::default();
    for source in sources() {
        for function in source.functions() {
            let lines = function.lines();
            if lines > FUNCTION_LINES {
                let message = format!("`{}` has {lines} lines, more than {FUNCTION_LINES}", function.name);
                found.add(&source, function.at, message);
            }
        }
    }
    found.none();
}

#[test]
fn nothing_panics_on_purpose() {
    let mut found = Violations::default();
    for source in sources() {
        let code = source.production();
        for word in [".unwrap()", "panic!", "todo!", "unimplemented!", "dbg!", ".unwrap_err()"] {
            for (at, _) in code.match_indices(word) {
                found.add(&source, at, word);
            }
        }
        for (at, call) in code.match_indices(".expect(") {
            if !source.text[at + call.len()..].trim_start().starts_with("\"invariant: ") {
                found.add(&source, at, "`expect` without an invariant that can be checked nearby");
            }
        }
    }
    found.none();
}

#[test]
fn unsafe_code_is_in_sys_and_macros_and_thread_locals_in_stats() {
    let mut found = Violations::default();
    for source in sources() {
        for (word, home) in [("unsafe", "src/sys"), ("macro_rules!", "src/stats"), ("thread_local!", "src/stats")] {
            for at in words(&source.code, word).filter(|_| !source.path.starts_with(home)) {
                found.add(&source, at, format!("`{word}` outside {home}"));
            }
        }
    }
    found.none();
}

#[test]
fn replaceable_crates_are_named_in_few_files() {
    let mut found = Violations::default();
    for source in sources() {
        for (name, homes) in CONFINED {
            if homes.iter().any(|home| source.path.starts_with(home)) {
                continue;
            }
            for at in words(source.production(), name).filter(|&at| source.code[at + name.len()..].starts_with("::")) {
                let nested = source.code[..at].ends_with("::");
                if !nested {
                    found.add(&source, at, format!("`{name}` is named outside {}", homes.join(", ")));
                }
            }
        }
    }
    found.none();
}

#[test]
fn from_proto_destructures_every_field() {
    let mut found = Violations::default();
    for source in sources() {
        for function in source.functions().into_iter().filter(|function| function.name.starts_with("from_proto")) {
            let body: String = function.body.split_whitespace().collect::<Vec<_>>().join(" ");
            if body.match_indices(".. }").any(|(at, _)| of_a_message(&body[..at])) {
                found.add(&source, function.at, format!("`{}` skips fields with `..`", function.name));
            }
            if body.contains(": _,") || body.contains(": _ }") {
                found.add(&source, function.at, format!("`{}` drops a field with `_`", function.name));
            }
            if function.reads_fields_of_its_proto() {
                found.add(&source, function.at, format!("`{}` reads `proto.field`: destructure it", function.name));
            }
        }
    }
    found.none();
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = fs::read_to_string(root().join("docs/adr/0002-dependencies.md")).unwrap();
    let mut depends = false;
    let missing: Vec<&str> = manifest
        .lines()
        .filter_map(|line| {
            if line.starts_with('[') {
                depends = line.ends_with("dependencies]");
                return None;
            }
            line.split_once(" = ").filter(|_| depends).map(|(name, _)| name)
        })
        .filter(|name| !reasons.contains(&format!("| {name} |")))
        .collect();
    assert!(missing.is_empty(), "no reason in docs/adr/0002-dependencies.md for {missing:?}");
}

/// Every path of the repository that a document names in backticks or links to.
#[test]
fn documents_name_files_that_exist() {
    let mut dead = Vec::new();
    for document in files("md", &["", "docs", "interop", "benches"]) {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        let tops = [
            "src/",
            "tests/",
            "docs/",
            "proto/",
            "interop/",
            "benches/",
            ".ci/",
            "etc/",
            "systemd/",
            "deb/",
            "rpm/",
            "packaging/",
        ];
        let quoted = text.split('`').skip(1).step_by(2).filter(|word| tops.iter().any(|top| word.starts_with(top)));
        let quoted = quoted.filter(|word| !word.contains([' ', '*', '<'])).map(|word| root().join(word));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let links = links.filter(|link| !link.is_empty() && !link.contains(':'));
        let links = links.map(|link| root().join(&document).with_file_name(link));
        let missing = quoted.chain(links).filter(|path| !path.exists());
        dead.extend(missing.map(|path| format!("{}: {}", document.display(), path.display())));
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// One file under src.
struct Source {
    /// Relative to the repository, such as `src/route/mod.rs`.
    path: PathBuf,
    text: String,
    /// `text` with comments and literals blanked out: same length, same lines.
    code: String,
}

/// A function with a body.
struct Function<'a> {
    name: &'a str,
    at: usize,
    /// From the `fn` to the closing brace.
    body: &'a str,
}

impl Source {
    /// The top-level module that the file belongs to; lib.rs and main.rs stand above all of them.
    fn module(&self) -> Option<String> {
        let name = Path::new(self.path.iter().nth(1)?).file_stem()?.to_string_lossy().into_owned();
        (name != "lib" && name != "main").then_some(name)
    }

    /// The code without its trailing `#[cfg(test)] mod tests`; nothing in a file that is for tests altogether, by its name.
    fn production(&self) -> &str {
        let is_test = |part: &str| part == "tests" || part == "tests.rs" || part.starts_with("test_");
        if self.path.iter().any(|part| is_test(&part.to_string_lossy())) {
            return "";
        }
        &self.code[..self.code.find("#[cfg(test)]\nmod tests {").unwrap_or(self.code.len())]
    }

    /// Each `name` of `crate::name` and of `crate::{name, name::…}`, with its place.
    fn crate_imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, start) in self.code.match_indices("crate::") {
            let rest = &self.code[at + start.len()..];
            match rest.strip_prefix('{') {
                None => found.push((at, identifier(rest).to_owned())),
                Some(group) => {
                    let mut depth = 0;
                    let end = group.find(|c| closes(c, &mut depth)).unwrap_or(group.len());
                    let mut depth = 0;
                    for item in group[..end].split(|c: char| {
                        depth += i32::from(c == '{') - i32::from(c == '}');
                        c == ',' && depth == 0
                    }) {
                        found.push((at, identifier(item.trim_start()).to_owned()));
                    }
                }
            }
        }
        found
    }

    fn functions(&self) -> Vec<Function<'_>> {
        let code = self.production();
        let mut found = Vec::new();
        for at in words(code, "fn") {
            let rest = &code[at..];
            let name = identifier(rest["fn".len()..].trim_start());
            let mut nesting = 0;
            let Some(open) = rest.find(|c| {
                nesting += i32::from("([".contains(c)) - i32::from(")]".contains(c));
                nesting == 0 && (c == '{' || c == ';')
            }) else {
                continue;
            };
            if name.is_empty() || rest[open..].starts_with(';') {
                continue;
            }
            let mut depth = 0;
            let end = rest[open + 1..].find(|c| closes(c, &mut depth)).map_or(rest.len(), |end| open + 2 + end);
            found.push(Function { name, at, body: &rest[..end] });
        }
        found
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

impl Function<'_> {
    /// The lines that say what is done. In a `from_proto`, the list of a message's fields, of those that another function converts
    /// (`Fields`), and the reports of those that have no effect are a table, which is as long as the message.
    fn lines(&self) -> usize {
        if !self.name.starts_with("from_proto") {
            return self.body.lines().count();
        }
        let mut table = None;
        let mut count = 0;
        for line in self.body.lines().map(str::trim) {
            if table.is_none() {
                let report = line.starts_with("field.ignored(") || line.starts_with("field.unsupported(");
                table = (line.starts_with("let ") && line.ends_with(" {") && !line.contains('='))
                    .then_some("} = ")
                    .or(line.ends_with("Fields {").then_some("};"))
                    .or(report.then_some(");"));
                count += usize::from(table.is_none());
            }
            table = table.filter(|end| !line.contains(end));
        }
        count
    }

    /// Whether the body says `proto.field` of the function's own first parameter `proto: &Message`.
    fn reads_fields_of_its_proto(&self) -> bool {
        let parameters = &self.body[self.body.find('(').map_or(0, |open| open + 1)..];
        let name = identifier(parameters.trim_start());
        let kind = parameters.split([',', ')']).next().and_then(|parameter| parameter.split(": &").nth(1));
        let is_message = kind.is_some_and(|kind| kind.contains("::") && !kind.starts_with("str"));
        words(self.body, name).filter(|_| is_message).any(|at| {
            let Some(rest) = self.body[at + name.len()..].strip_prefix('.') else { return false };
            let field = identifier(rest);
            !field.is_empty() && !rest[field.len()..].starts_with('(') && !self.body[..at].ends_with('.')
        })
    }
}

/// Whether the pattern in which `code` ends is that of a message: of a type that is named by a path, such as `core::Address`.
fn of_a_message(code: &str) -> bool {
    let name = code[..code.rfind('{').unwrap_or(0)].trim_end();
    let name = &name[name.rfind(char::is_whitespace).map_or(0, |space| space + 1)..];
    name.contains("::")
}

/// Counts braces; true at the one that closes the block whose opening brace came just before.
fn closes(c: char, depth: &mut i32) -> bool {
    *depth += i32::from(c == '{') - i32::from(c == '}');
    *depth < 0
}

/// The identifier that `code` begins with, or nothing.
fn identifier(code: &str) -> &str {
    &code[..code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len())]
}

/// Where `word` stands by itself in `code`.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under src, in order.
fn sources() -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        Source { path, code: blank(&text), text }
    };
    files("rs", &["src"]).into_iter().map(read).collect()
}

/// The files with this extension below these directories, in order; of the root only what stands there itself.
fn files(extension: &str, directories: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && directory != root().join("") {
                directories.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Replaces every comment and literal by spaces, byte for byte.
fn blank(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + literal_or_comment(&text[at..], text[..at].chars().next_back());
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + text[at..].chars().next().map_or(1, char::len_utf8));
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The length of the comment or literal that `text` begins with; 0 if it begins with neither.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    let to = |found: Option<usize>, length: usize| found.map_or(text.len(), |at| at + length);
    if text.starts_with("//") {
        return to(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return to(text.find("*/"), 2);
    }
    if let Some(rest) = text.strip_prefix('"') {
        return to(closing_quote(rest, '"'), 2);
    }
    let hashes = text.strip_prefix('r').map_or(0, |rest| rest.len() - rest.trim_start_matches('#').len());
    let part_of_a_name = before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_');
    if !part_of_a_name && text.starts_with('r') && text[1 + hashes..].starts_with('"') {
        let open = hashes + 2;
        return to(text[open..].find(&format!("\"{}", "#".repeat(hashes))), open + 1 + hashes);
    }
    // A quote begins a character unless it begins a lifetime, which no quote ends two characters on.
    if text.starts_with('\'') && (text[1..].starts_with('\\') || text.chars().nth(2) == Some('\'')) {
        return to(closing_quote(&text[1..], '\''), 2);
    }
    0
}

/// Where the first `quote` without a backslash stands.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, source: &Source, at: usize, what: impl Display) {
        self.0.push(format!("{}:{}: {what}", source.path.display(), source.line(at)));
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}
