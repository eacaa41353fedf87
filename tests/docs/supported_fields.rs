//! docs/supported-fields.md: what becomes of every field of the messages that Portreeve reads, as the conversions say it.
//!
//! A conversion takes a message apart field by field and calls `unsupported` or `ignored` for what it does not use; those
//! calls are read here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use portreeve::proto;
use prost_reflect::{FieldDescriptor, MessageDescriptor};
use regex::Regex;

use super::statistics::collect_sources;

const HEAD: &str = "# Supported fields

What Portreeve does with each field of Envoy's configuration:

- **yes**: as in Envoy.
- **no effect**: accepted with a warning at its line; the reason stands beside it.
- **not yet**: refused with an error at its line, because to ignore it would change who gets in or where traffic goes.

A message that is not listed here belongs to a field that is *not yet*, or to an extension that is not there yet.
`portreeve check FILE` says the same for a file of yours. Single values of a supported field can still be refused or
without effect; the error or warning says so.

This page is generated from the source: after a change there run `UPDATE_DOCS=1 cargo test --test docs`.
";

#[test]
fn supported_fields_md_says_what_the_conversions_do() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect_sources(&root.join("src"), &mut sources);
    let known = messages();
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        if !text.contains("Field<'_>") {
            continue;
        }
        for (name, table) in tables(text, &known) {
            let place = source.strip_prefix(root).unwrap().display().to_string();
            sections.entry(name).or_default().insert(table, place);
        }
    }
    let mut page = String::from(HEAD);
    for (name, tables) in &sections {
        let _ = writeln!(page, "\n## {name}");
        for (table, place) in tables {
            let _ = if tables.len() > 1 { write!(page, "\nIn `{place}`:\n") } else { Ok(()) };
            let _ = write!(page, "\n| field | |\n|---|---|\n{table}");
        }
    }
    let path = root.join("docs/supported-fields.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/supported-fields.md is not what the conversions say: run UPDATE_DOCS=1 cargo test --test docs"
    );
    assert!(sections.len() > 50, "only {} conversions were recognised", sections.len());
}

/// The messages that a configuration can hold, by the last part of their names.
fn messages() -> BTreeMap<String, Vec<MessageDescriptor>> {
    let mut messages: BTreeMap<String, Vec<MessageDescriptor>> = BTreeMap::new();
    for message in proto::pool().all_messages() {
        let name = message.full_name();
        let configured = ["envoy.config.", "envoy.extensions.", "envoy.type.", "portreeve.registration.v1."];
        if configured.iter().any(|package| name.starts_with(package)) {
            messages.entry(message.name().to_owned()).or_default().push(message);
        }
    }
    messages
}

/// The messages that a file takes apart, and what it does with their fields.
fn tables(text: &str, known: &BTreeMap<String, Vec<MessageDescriptor>>) -> Vec<(String, String)> {
    let functions = functions(text);
    let mut tables = Vec::new();
    for (own, function) in functions.iter().enumerate() {
        for (name, fields) in &function.patterns {
            let candidates = known.get(name).map(Vec::as_slice).unwrap_or_default();
            let Some(message) = candidates.iter().find(|message| struct_fields(message) == *fields) else { continue };
            // What the function itself says goes before what its helpers say, which take nothing of that name apart.
            let says = |field: &str| {
                let helper = |(at, other): &(usize, &Function)| {
                    *at != own && !other.patterns.iter().any(|(_, fields)| fields.contains(field))
                };
                let helpers = functions.iter().enumerate().filter(helper).map(|(_, other)| other);
                std::iter::once(function).chain(helpers).find_map(|function| function.verdicts.get(field))
            };
            let mut table = String::new();
            for field in message.fields() {
                let verdict = says(field.name()).or_else(|| says(&choice_of(&field)?));
                let _ = writeln!(table, "| `{}` | {} |", field.name(), verdict.map_or("yes", String::as_str));
            }
            tables.push((message.full_name().to_owned(), table));
        }
    }
    tables
}

/// A function of a source file.
struct Function {
    /// What it takes apart: names of structs, and their fields.
    patterns: Vec<(String, BTreeSet<String>)>,
    /// What it says of fields.
    verdicts: BTreeMap<String, String>,
}

fn functions(text: &str) -> Vec<Function> {
    let head = Regex::new(r"(?m)^ *(?:pub(?:\([a-z]+\))? )?(?:const |async )?fn ").expect("an expression");
    let pattern = Regex::new(r"\b([A-Z]\w*) \{([^{}]*)\}\)*\s*(?:=[^=>]|in\b)").expect("an expression");
    let unsupported = Regex::new(r#"unsupported\(\s*"(\w+)""#).expect("an expression");
    let ignored = Regex::new(r#"ignored\(\s*"(\w+)",\s*[^,;]+,\s*(?:"([^"]*)"|(\w+))"#).expect("an expression");
    let constant = Regex::new(r#"\b(\w+)(?:: &(?:'static )?str)? = "([^"]*)""#).expect("an expression");
    let starts: Vec<_> = head.find_iter(text).map(|head| head.start()).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let bodies = starts.iter().copied().zip(ends);
    bodies
        .map(|(start, end)| {
            let body = &text[start..end];
            let mut verdicts = BTreeMap::new();
            for found in ignored.captures_iter(body) {
                let why = match (found.get(2), found.get(3)) {
                    (Some(literal), _) => literal.as_str().to_owned(),
                    (None, name) => {
                        let name = name.expect("one of the two").as_str();
                        let before = &text[..start + found.get(0).expect("all of it").start()];
                        let nearest = |text| constant.captures_iter(text).filter(|found| &found[1] == name).last();
                        nearest(before).or_else(|| nearest(text)).map(|found| found[2].to_owned()).unwrap_or_default()
                    }
                };
                verdicts.insert(found[1].to_owned(), format!("no effect: {why}"));
            }
            verdicts.extend(unsupported.captures_iter(body).map(|found| (found[1].to_owned(), "not yet".to_owned())));
            let patterns = pattern.captures_iter(body).map(|found| (found[1].to_owned(), bound_fields(&found[2])));
            Function { patterns: patterns.collect(), verdicts }
        })
        .collect()
}

/// The names in a pattern such as `name, r#type: kind, port: _port`.
fn bound_fields(pattern: &str) -> BTreeSet<String> {
    let names = pattern.split(',').map(|part| part.split(':').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(|name| name.trim_start_matches("r#").to_owned()).collect()
}

/// The fields of the Rust struct of a message: a oneof is one.
fn struct_fields(message: &MessageDescriptor) -> BTreeSet<String> {
    message.fields().map(|field| choice_of(&field).unwrap_or_else(|| field.name().to_owned())).collect()
}

fn choice_of(field: &FieldDescriptor) -> Option<String> {
    let synthetic = field.field_descriptor_proto().proto3_optional();
    field.containing_oneof().filter(|_| !synthetic).map(|choice| choice.name().to_owned())
}

#[test]
fn conversions_are_read() {
    let text = r#"
const WHY: &str = "nobody waits";
fn from_proto(proto: &core::DataSource, field: Field<'_>) {
    let core::DataSource { specifier, watched_directory: _ } = proto;
    field.ignored("watched_directory", watched_directory, WHY);
    field.ignored("filename", filename, "it has none");
}
fn value(field: Field<'_>) {
    field.unsupported("inline_bytes", &Some(1));
}
"#;
    let tables = tables(text, &messages());
    assert_eq!(tables[0].0, "envoy.config.core.v3.DataSource");
    let expected = "| `filename` | no effect: it has none |\n| `inline_bytes` | not yet |\n| `inline_string` | yes |\n\
                    | `environment_variable` | yes |\n| `watched_directory` | no effect: nobody waits |\n";
    assert_eq!(tables[0].1, expected);
}
