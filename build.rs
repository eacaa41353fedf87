//! Compiles the .proto files, without protoc: Envoy's (shipped inside the `envoy-types` package) into descriptors, our own and
//! those of xDS that the package has not (both below `proto/`) into Rust and descriptors.
//!
//! `OUT_DIR/descriptors.bin` holds everything and drives YAML loading and `/config_dump`; `OUT_DIR/services.bin` holds our own
//! packages that others are to know, with what they import, and feeds gRPC reflection; `OUT_DIR/portreeve.rs` is the generated
//! module tree.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use prost::Message;
use protox::file::{File, FileResolver, GoogleFileResolver};

/// Our packages that only processes of ours speak, among themselves, and those that only files hold.
const INTERNAL: [&str; 3] = ["portreeve/handoff/", "portreeve/route_check/", "xds/"];

/// The messages of `xds.type.matcher.v3` that `envoy-types` has; the others of that package are below `proto/`.
const XDS_MATCHERS: [(&str, &str); 5] = [
    ("Matcher", "Matcher"),
    ("Matcher.OnMatch", "matcher::OnMatch"),
    ("StringMatcher", "StringMatcher"),
    ("ListStringMatcher", "ListStringMatcher"),
    ("RegexMatcher", "RegexMatcher"),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let own = manifest.join("proto");
    let envoy = envoy_types_dir(&manifest.join("Cargo.toml"))?.join("proto");
    for path in [&manifest.join("build.rs"), &manifest.join("Cargo.lock"), &own, &envoy] {
        println!("cargo:rerun-if-changed={}", path.display());
    }

    let mut roots = vec![own.clone()];
    for root in [
        "data-plane-api",
        "googleapis",
        "protoc-gen-validate",
        "xds",
        "opentelemetry-proto",
        "client_model",
        "cel-spec/proto",
        "ratelimit/api",
    ] {
        roots.push(envoy.join(root));
    }
    let own_files = proto_files(&own)?;
    let mut all_files = BTreeSet::new();
    for root in &roots {
        all_files.append(&mut proto_files(root)?);
    }

    let everything = compile(&roots, &all_files, SourceInfo::Omit)?;
    fs::write(out.join("descriptors.bin"), everything)?;
    generate(&compile(&roots, &own_files, SourceInfo::Include)?, &out)?;
    let public_files =
        own_files.into_iter().filter(|file| !INTERNAL.iter().any(|package| file.starts_with(package))).collect();
    fs::write(out.join("services.bin"), compile(&roots, &public_files, SourceInfo::Include)?)?;
    Ok(())
}

/// Our own packages as Rust: messages, clients and servers. Envoy's and Google's messages are those of `envoy-types`.
fn generate(descriptors: &[u8], out: &Path) -> Result<()> {
    let mut config = tonic_prost_build::Config::new();
    config.out_dir(out).include_file("portreeve.rs").enable_type_names();
    // It would show a secret.
    config.skip_debug([".portreeve.handoff.v1.TicketKey"]);
    config.type_name_domain(["."], "type.googleapis.com");
    let mut builder = tonic_prost_build::configure().compile_well_known_types(true);
    for package in ["envoy", "google.protobuf", "google.rpc", "udpa", "validate", "xds.annotations", "xds.core"] {
        let path = format!("::envoy_types::pb::{}", package.replace('.', "::"));
        builder = builder.extern_path(format!(".{package}"), path);
    }
    for (message, path) in XDS_MATCHERS {
        let path = format!("::envoy_types::pb::xds::r#type::matcher::v3::{path}");
        builder = builder.extern_path(format!(".xds.type.matcher.v3.{message}"), path);
    }
    builder.compile_fds_with_config(prost_types::FileDescriptorSet::decode(descriptors)?, config)?;
    Ok(())
}

/// Whether descriptors carry the comments of their source, from which the generated Rust gets its documentation.
#[derive(Clone, Copy, PartialEq)]
enum SourceInfo {
    Include,
    Omit,
}

/// An encoded `FileDescriptorSet` of `files` and of all that they import.
fn compile(roots: &[PathBuf], files: &BTreeSet<String>, source_info: SourceInfo) -> Result<Vec<u8>> {
    let mut packages = BTreeSet::new();
    for root in roots {
        for file in proto_files(root)? {
            packages.extend(package(&fs::read_to_string(root.join(file))?).map(str::to_owned));
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(Protos { roots: roots.to_vec(), packages });
    compiler.include_imports(true).include_source_info(source_info == SourceInfo::Include);
    for file in files {
        compiler.open_file(file)?;
    }
    Ok(compiler.encode_file_descriptor_set())
}

/// The folder of the `envoy-types` package. Cargo is asked offline first; a build that has not downloaded every
/// dev-dependency yet fails that and is asked again with the network allowed.
fn envoy_types_dir(manifest: &Path) -> Result<PathBuf> {
    let mut metadata = cargo_metadata(manifest, &["--offline"])?;
    if !metadata.status.success() {
        metadata = cargo_metadata(manifest, &[])?;
    }
    if !metadata.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "envoy-types").ok_or("no envoy-types package")?;
    let path = Path::new(package["manifest_path"].as_str().ok_or("envoy-types has no manifest")?);
    Ok(path.parent().ok_or("envoy-types has no folder")?.to_owned())
}

/// `--filter-platform`, because without it the packages of other platforms must be on disk too.
fn cargo_metadata(manifest: &Path, options: &[&str]) -> Result<Output> {
    let mut command = Command::new(env::var("CARGO")?);
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &env::var("TARGET")?]);
    Ok(command.arg("--manifest-path").arg(manifest).args(options).output()?)
}

/// The .proto files below `root`, as import names. A root that does not exist has none.
fn proto_files(root: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                let name = path.strip_prefix(root)?.to_str().ok_or("a .proto file's name is not UTF-8")?;
                files.insert(name.to_owned());
            }
        }
    }
    Ok(files)
}

/// Reads .proto files and makes relative type names absolute. protox binds the first part of a name such as
/// `config.core.v3.Address` to the innermost package of that name, imported or not (`envoy.extensions.config`, unrelated);
/// protoc binds it only to packages that the file imports. With absolute names both agree.
struct Protos {
    roots: Vec<PathBuf>,
    packages: BTreeSet<String>,
}

impl FileResolver for Protos {
    fn open_file(&self, name: &str) -> std::result::Result<File, protox::Error> {
        let text = self.roots.iter().find_map(|root| fs::read_to_string(root.join(name)).ok());
        match text {
            Some(text) => File::from_source(name, &self.with_absolute_names(&text)),
            None => GoogleFileResolver::new().open_file(name),
        }
    }
}

impl Protos {
    fn with_absolute_names(&self, text: &str) -> String {
        let scope = package(text).unwrap_or_default();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let mut out = String::with_capacity(text.len() + text.len() / 16);
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let (token, tail) = if is_word(next) {
                rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
            } else {
                rest.split_at(next.len_utf8())
            };
            if out.ends_with([' ', '<', '(', ','])
                && let Some(prefix) = self.enclosing_package(scope, token)
            {
                out.push('.');
                out.push_str(prefix);
                out.push('.');
            }
            out.push_str(token);
            rest = tail;
        }
        out
    }

    /// The package, `scope` or one around it, that a relative type name such as `core.v3.Address` starts from.
    fn enclosing_package<'a>(&self, scope: &'a str, name: &str) -> Option<&'a str> {
        let type_start = name.find(|c: char| c.is_ascii_uppercase())?;
        let relative = name[..type_start].strip_suffix('.').filter(|package| !package.is_empty())?;
        let mut candidate = scope;
        loop {
            if self.packages.contains(&format!("{candidate}.{relative}")) {
                return Some(candidate);
            }
            candidate = candidate.rsplit_once('.')?.0;
        }
    }
}

fn package(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("package ")?.trim().strip_suffix(';'))
}
