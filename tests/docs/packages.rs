//! What the packages install: both the same files, with a configuration and examples that are valid, and a hardened unit.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Mode, source and destination of what is installed, as `row` finds them in a text.
fn installed(text: &str, row: &str, order: [usize; 3]) -> BTreeSet<[String; 3]> {
    let row = Regex::new(row).unwrap();
    row.captures_iter(text).map(|found| order.map(|group| found[group].to_owned())).collect()
}

#[test]
fn deb_and_rpm_install_the_same_files() {
    let cargo = read("Cargo.toml");
    let deb = installed(&cargo, r#"(?m)^  \["([^"]+)", "([^"]+)", "(\d+)"\]"#, [3, 1, 2]);
    let spec = read("rpm/portreeve.spec");
    let rpm = installed(&spec, r"(?m)^put (\d+) (\S+) /(\S+)$", [1, 2, 3]);
    // What the systems disagree on: where zsh looks, and what is said about the package itself.
    let own = ["deb/lintian-overrides", "target/release/generated/changelog.gz", "LICENSE"];
    let common = |files: &BTreeSet<[String; 3]>| -> BTreeSet<[String; 3]> {
        let files = files.iter().filter(|[_, source, _]| !own.contains(&source.as_str()));
        files.map(|file| file.clone().map(|part| part.replace("vendor-completions", "site-functions"))).collect()
    };
    assert_eq!(common(&deb), common(&rpm));
    assert!(rpm.len() > 10, "the lists are read");
    for [_, source, _] in rpm.iter().filter(|[_, source, _]| !source.contains('*') && !source.starts_with("target/")) {
        assert!(!read(source).is_empty());
    }
}

#[test]
fn the_same_files_are_the_administrators() {
    let cargo = read("Cargo.toml");
    let (_, kept) = cargo.split_once("conf-files = [").unwrap();
    let deb: Vec<_> = kept.split(']').next().unwrap().split(", ").map(|path| path.trim_matches('"')).collect();
    let spec = read("rpm/portreeve.spec");
    let rpm: Vec<_> = spec.lines().filter_map(|line| line.strip_prefix("%config(noreplace) ")).collect();
    assert_eq!(deb, rpm);
}

#[test]
fn the_changelogs_of_the_packages_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("deb/changelog").starts_with(&format!("portreeve ({version}) ")));
    let spec = read("rpm/portreeve.spec");
    let (_, newest) = spec.split_once("%changelog\n").unwrap();
    assert!(newest.lines().next().unwrap().ends_with(&format!(" - {version}-1")));
}

#[test]
fn the_configuration_and_the_example_of_its_manual_are_valid() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("server.pem");
    let portreeve = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portreeve")).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(portreeve(&["certificate", "--self-signed", pem.to_str().unwrap()]).0);
    let manual = read("docs/man/envoy3.yaml.5");
    let (_, example) = manual.split_once(".Bd -literal\n").unwrap();
    let (example, _) = example.split_once(".Ed\n").unwrap();
    for (name, text) in [("envoy3.yaml", read("etc/portreeve/envoy3.yaml")), ("manual.yaml", example.to_owned())] {
        let file = directory.path().join(name);
        let here = format!("{}/", directory.path().display());
        fs::write(&file, text.replace("/var/lib/portreeve/", &here).replace("/var/log/portreeve/", &here)).unwrap();
        let (valid, said) = portreeve(&["check", file.to_str().unwrap()]);
        assert!(valid && said.ends_with(": valid\n"), "{said}");
    }
}

#[test]
fn the_unit_is_hardened() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/portreeve.service");
    let mut judge = Command::new("systemd-analyze");
    judge.args(["security", "--no-pager", "--offline=true", "--threshold=15"]).arg(unit);
    let Ok(judged) = judge.output() else {
        eprintln!("SKIPPED: there is no systemd-analyze here");
        return;
    };
    let exposure = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{exposure}{}", String::from_utf8_lossy(&judged.stderr));
}
