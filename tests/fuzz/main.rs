//! Every parser of ours under inputs that nobody would send: `cargo test --test fuzz`.
//!
//! Each target of `targets.rs` gets its seeds (`seeds/NAME/`) and a thousand mutations of them, the same ones in every run. It
//! must not panic, and what it asserts must hold. `FUZZ_SECONDS=600 cargo test --release --test fuzz -- NAME` goes on for that
//! long with other mutations each time. An input that failed belongs among the seeds. docs/fuzzing.md says more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    env, fs,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Once,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

mod targets;

const MUTATIONS: usize = 1_000;
const LONGEST: usize = 4_096;

#[test]
fn access_log_format() {
    run("access_log_format", targets::access_log_format);
}

#[test]
fn client_hello() {
    run("client_hello", targets::client_hello);
}

#[test]
fn configuration() {
    run("configuration", targets::configuration);
}

#[test]
fn connection() {
    run("connection", targets::connection);
}

#[test]
fn grpc() {
    run("grpc", targets::grpc);
}

#[test]
fn header_matcher() {
    run("header_matcher", targets::header_matcher);
}

#[test]
fn http1() {
    run("http1", targets::http1);
}

#[test]
fn http2() {
    run("http2", targets::http2);
}

#[test]
fn ocsp() {
    run("ocsp", targets::ocsp);
}

#[test]
fn path() {
    run("path", targets::path);
}

#[test]
fn pem() {
    run("pem", targets::pem);
}

#[test]
fn proxy_protocol() {
    run("proxy_protocol", targets::proxy_protocol);
}

#[test]
fn request_headers() {
    run("request_headers", targets::request_headers);
}

#[test]
fn routes() {
    run("routes", targets::routes);
}

#[test]
fn runtime() {
    run("runtime", targets::runtime);
}

#[test]
fn secrets() {
    run("secrets", targets::secrets);
}

#[test]
fn uri_template() {
    run("uri_template", targets::uri_template);
}

/// `fuzz/` has the same targets as this file.
#[test]
fn every_target_is_guided_by_coverage_as_well() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let guided = names("fuzz/fuzz_targets");
    assert_eq!(guided, names("tests/fuzz/seeds"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    assert!(guided.iter().all(|name| manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\""))));
}

/// Runs a target over its seeds and over mutations of them.
fn run(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    let seconds = env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let start = Instant::now();
    let mut random = Random(match seconds {
        Some(_) => {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() & u128::from(u64::MAX))
                .unwrap()
                | 1
        }
        None => 0x9e37_79b9_7f4a_7c15,
    });
    for seed in &seeds {
        check(name, target, seed);
    }
    let mut count = 0;
    while seconds.map_or(count < MUTATIONS, |limit| start.elapsed() < limit) {
        check(name, target, &random.mutation(&seeds));
        count += 1;
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no seeds", directory.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn check(name: &str, target: fn(&[u8]), input: &[u8]) {
    thread_local! {
        /// Also those within tasks, which the runtime catches.
        static PANICS: Cell<u32> = const { Cell::new(0) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            usual(info);
        }));
    });
    // What panics here is told by the hook.
    let _ = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(PANICS.get() == 0, "{name} fails for this input; add it to its seeds: b\"{}\"", input.escape_ascii());
}

/// Mutations, from a sequence of numbers that a start value determines (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        usize::try_from(number >> 33).unwrap() % limit.max(1)
    }

    /// A seed with one to eight changes.
    fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        /// Bytes that parsers treat in a way of their own.
        const SPECIAL: &[u8] = b"\0\t\n\r \"#%&'()*+,-./0:;<=>?@[\\]_`{|}~\x7f\x80\xff";
        let at = self.below(input.len() + 1);
        let end = (at + self.below(16)).min(input.len());
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = SPECIAL[self.below(SPECIAL.len())],
            2 => input.insert(at, SPECIAL[self.below(SPECIAL.len())]),
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].repeat(1 + self.below(20));
                input.splice(at..at, again);
            }
            5 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                let to = (from + self.below(64)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => input.truncate(at),
        }
    }
}
