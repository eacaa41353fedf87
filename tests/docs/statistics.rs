//! docs/statistics.md: every stat that the source declares, with its description.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const HEAD: &str = "# Statistics

Every stat has Envoy's name, so that dashboards and alerts keep working. `/stats` of the admin interface prints them as
text, `/stats?format=json` as JSON and `/stats/prometheus` for Prometheus, with Envoy's labels. Counters only grow; gauges
go up and down; histograms show how values are distributed.

Stats of a response code or class (`upstream_rq_200`, `upstream_rq_2xx`) appear when the first such response is counted.

This page is generated from the source: after a change there run `UPDATE_DOCS=1 cargo test --test docs`.
";

/// The stats of one `stats::declare!`.
struct Group {
    about: String,
    stats: Vec<[String; 3]>,
}

#[test]
fn statistics_md_lists_what_the_source_declares() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect_sources(&root.join("src"), &mut sources);
    sources.sort();
    let mut page = String::from(HEAD);
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        for Group { about, stats } in groups(&text) {
            let _ = writeln!(page, "\n## {}\n\n| name | kind | description |\n|---|---|---|", heading(&about));
            for [name, kind, description] in stats {
                let _ = writeln!(page, "| `{name}` | {kind} | {description} |");
            }
        }
    }
    let path = root.join("docs/statistics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/statistics.md is not what the source says: UPDATE_DOCS=1 cargo test --test docs");
}

/// "Of a cluster, under `x.`" becomes "A cluster, under `x.`"
fn heading(about: &str) -> String {
    let about = about.strip_prefix("Of ").unwrap_or(about).trim_end_matches('.');
    let (first, rest) = about.split_at(about.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

pub(super) fn collect_sources(directory: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}

/// The declarations of a source file: each begins with the macro's name at the begin of a line and ends with a brace there.
fn groups(source: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut lines = source.lines();
    while lines.any(|line| line == "stats::declare! {") {
        let mut group = Group { about: String::new(), stats: Vec::new() };
        let mut comment = String::new();
        for line in lines.by_ref().take_while(|line| *line != "}").map(str::trim) {
            if let Some(text) = line.strip_prefix("/// ") {
                let space = if comment.is_empty() { "" } else { " " };
                let _ = write!(comment, "{space}{text}");
            } else if line.ends_with('{') {
                group.about = std::mem::take(&mut comment);
            } else if let Some((name, kind)) = line.split_once(": ") {
                let row = [name, kind.trim_end_matches(','), &comment].map(str::to_owned);
                group.stats.push(row);
                comment.clear();
            }
        }
        groups.push(group);
    }
    groups
}

#[test]
fn a_declaration_is_read_as_it_is_written() {
    let source = "\
stats::declare! {
    /// Of every listener,
    /// under `listener.<address>.`
    pub struct ListenerStats {
        /// Connections
        /// accepted.
        downstream_cx_total: Counter,
        /// Open now.
        downstream_cx_active: Gauge,
    }
}
";
    let [Group { about, stats }] = &groups(source)[..] else { panic!("one group") };
    assert_eq!(about, "Of every listener, under `listener.<address>.`");
    assert_eq!(stats[0], ["downstream_cx_total", "Counter", "Connections accepted."]);
    assert_eq!(stats[1], ["downstream_cx_active", "Gauge", "Open now."]);
}
