//! docs/operations: what can be held against the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

fn names(path: &str, expression: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    Regex::new(expression).unwrap().captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn troubleshooting_explains_every_response_flag_that_is_set() {
    let mut known = names("src/stream_info/response_flags.rs", r#"\(ResponseFlags::\w+, "(\w+)""#);
    // Envoy has them, and nothing sets them here yet.
    for unused in ["LR", "OM"] {
        assert!(known.remove(unused));
    }
    assert_eq!(names("docs/operations/troubleshooting.md", r"(?m)^\| `([A-Z]+)` \| (?:\d|-)"), known);
}

#[test]
fn commands_and_options_of_the_runbook_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = fs::read_dir(root.join("operations")).unwrap().map(|entry| entry.unwrap().path());
    let used = Regex::new(
        r"(?m)(?:^ *|`|-- )portreeve ((?:run|check|reload|status|certificate|workers \w+|version)\b[^`|\n#]*)",
    );
    let (used, option) = (used.unwrap(), Regex::new(r"--[a-z][a-z-]+").unwrap());
    let mut found = 0;
    for page in pages.chain([root.join("migrating-from-envoy.md")]) {
        for line in used.captures_iter(&fs::read_to_string(&page).unwrap()) {
            let command = line[1].split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            let command: Vec<_> = command.take(if line[1].starts_with("workers") { 2 } else { 1 }).collect();
            let help = Command::new(env!("CARGO_BIN_EXE_portreeve")).args(&command).arg("--help").output().unwrap();
            assert!(help.status.success(), "{}: portreeve {}", page.display(), &line[1]);
            let help = String::from_utf8(help.stdout).unwrap();
            for option in option.find_iter(&line[1]) {
                assert!(help.contains(option.as_str()), "{}: portreeve {}", page.display(), &line[1]);
            }
            found += 1;
        }
    }
    assert!(found > 15, "only {found} commands were recognised");
}
