//! `portreeve check` over documents: what it says is compared word for word, and real files make it neither panic nor fall
//! silent.
//!
//! Below `accept/` and `reject/` each `NAME.yaml` has beside it what is said of it, `NAME.out`. To accept new words:
//! `UPDATE_EXPECTED=1 cargo test --test config`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The documents of `folder`, relative to this one.
fn documents(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(home().join(folder)).expect("a folder of documents");
    let names = entries.map(|entry| format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let expectation = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "out");
    let mut documents: Vec<_> = names.filter(|name| !expectation(name)).collect();
    documents.sort();
    documents
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn check(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.current_dir(home()).arg("check").args(arguments).output().expect("portreeve runs")
}

/// What is said of each document, from its first problem to its verdict.
fn said(documents: &[String]) -> BTreeMap<String, String> {
    let output = check(documents);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut said = BTreeMap::new();
    let mut rest = text.as_str();
    for document in documents {
        let verdict = ["valid", "refused"].map(|verdict| rest.find(&format!("\n{document}: {verdict}")));
        let start =
            match verdict {
                _ if rest.starts_with(&format!("{document}: valid")) => 0,
                [valid, refused] => {
                    valid.into_iter().chain(refused).min().unwrap_or_else(|| {
                        panic!("no verdict on {document}: {}", String::from_utf8_lossy(&output.stderr))
                    }) + 1
                }
            };
        let end = start + rest[start..].find('\n').expect("a whole line") + 1;
        said.insert(document.clone(), rest[..end].to_owned());
        rest = &rest[end..];
    }
    said
}

fn compare(folder: &str, verdict: &str) {
    let documents = documents(folder);
    let mut wrong = Vec::new();
    for (document, said) in said(&documents) {
        let file = home().join(Path::new(&document).with_extension("out"));
        if env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&file, &said).expect("written");
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        if said != expected || !last.starts_with(&format!("{document}: {verdict}")) {
            wrong.push(format!("--- expected\n{expected}--- said\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_EXPECTED=1 cargo test --test config accepts this", wrong.join("\n"));
}

#[test]
fn good_documents_are_accepted() {
    compare("accept", "valid");
}

#[test]
fn bad_documents_are_refused_word_for_word() {
    compare("reject", "refused");
}

#[test]
fn the_exit_status_tells_the_verdict() {
    let status = |arguments: &[&str]| {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        check(&arguments).status.code()
    };
    assert_eq!(status(&["accept/minimal.yaml"]), Some(0));
    assert_eq!(status(&["accept/minimal.yaml", "reject/syntax.yaml"]), Some(1));
    assert_eq!(status(&["no-such-file.yaml"]), Some(1));
    assert_eq!(status(&[]), Some(2));
    assert_eq!(status(&["--format", "xml", "accept/minimal.yaml"]), Some(2));
}

#[test]
fn machines_get_one_object() {
    let arguments = ["--format", "json", "accept/minimal.yaml", "reject/syntax.yaml"].map(str::to_owned);
    let output = check(&arguments);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["valid"], false);
    assert_eq!(report["files"][0], serde_json::json!({"file": "accept/minimal.yaml", "valid": true, "problems": []}));
    assert_eq!(report["files"][1]["problems"][0]["severity"], "error");
}

/// Real files, which are not part of the repository.
#[test]
fn real_files_make_it_neither_panic_nor_fall_silent() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let corpus = env::var_os("PORTREEVE_CORPUS").map_or(default, PathBuf::from);
    let Ok(folders) = fs::read_dir(&corpus) else {
        // Not by a macro, whose output the test harness hides.
        let _ =
            writeln!(io::stderr(), "SKIPPED: no corpus at {}; PORTREEVE_CORPUS names another place", corpus.display());
        return;
    };
    let mut files: Vec<String> = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(folder.expect("an entry").path()).expect("a folder of files");
        files.extend(entries.map(|entry| entry.expect("an entry").path().display().to_string()));
    }
    files.sort();
    assert!(!files.is_empty(), "{} holds no files", corpus.display());
    for (file, said) in said(&files) {
        let located = said.lines().any(|line| line.starts_with(&format!("{file}:")) && line.contains(": error: "));
        let refused = said.lines().last().is_some_and(|verdict| verdict.starts_with(&format!("{file}: refused")));
        assert_eq!(located, refused, "{said}");
    }
}
