//! The commands that end by themselves: exit status and what they print.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::support::certificates::Authority;

fn portreeve(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portreeve")).args(arguments).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_example_of_the_readme_is_accepted() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::copy(authority.issue(&["localhost"]).pem, directory.path().join("server.pem")).unwrap();
    std::fs::write(directory.path().join("envoy3.yaml"), example).unwrap();
    let output = portreeve(directory.path(), &["check", "envoy3.yaml"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!text(&output.stdout).contains("warning:"), "{}", text(&output.stdout));
}

#[test]
fn check_tells_right_from_wrong_by_its_status() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("good.yaml"), "{}\n").unwrap();
    std::fs::write(directory.path().join("bad.yaml"), "static_resources:\n  listenerz: []\n").unwrap();
    let check = |arguments: &[&str]| portreeve(directory.path(), &[&["check"], arguments].concat());
    assert_eq!(check(&["good.yaml"]).status.code(), Some(0));
    assert_eq!(check(&[]).status.code(), Some(2));
    assert_eq!(check(&["missing.yaml"]).status.code(), Some(1));
    let bad = check(&["good.yaml", "bad.yaml"]);
    assert_eq!(bad.status.code(), Some(1));
    let said = format!("{}{}", text(&bad.stdout), text(&bad.stderr));
    assert!(said.contains("bad.yaml:2:3: error: static_resources.listenerz"), "{said}");
    assert!(said.contains("listeners"), "no suggestion in {said}");
    let json = check(&["--format", "json", "bad.yaml"]);
    let problems: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(problems.to_string().contains("static_resources.listenerz"), "{problems}");
}

#[test]
fn validation_says_so_as_envoy_does() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("good.yaml"), "{}\n").unwrap();
    let validate = |more: &[&str]| portreeve(directory.path(), &[&["run", "--mode", "validate"], more].concat());
    let good = validate(&["-c", "good.yaml"]);
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), "configuration 'good.yaml' OK\n"));
    let bad = validate(&["-c", "good.yaml", "--config-yaml", "listeners: []"]);
    assert_eq!((bad.status.code(), text(&bad.stdout)), (Some(1), ""));
    assert!(text(&bad.stderr).contains("--config-yaml:1:1: error: "), "{}", text(&bad.stderr));
}

#[test]
fn help_and_version_say_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let version = portreeve(directory.path(), &["version"]);
    assert_eq!(text(&version.stdout), format!("portreeve {}\n", env!("CARGO_PKG_VERSION")));
    let help = portreeve(directory.path(), &["--help"]);
    for command in ["run", "check", "route-check", "demo", "reload", "status", "workers", "certificate", "version"] {
        assert!(text(&help.stdout).contains(&format!("  {command} ")), "{}", text(&help.stdout));
    }
    assert_eq!(portreeve(directory.path(), &["serve"]).status.code(), Some(2));
}
