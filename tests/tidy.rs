//! Keeps the tree as `src/lib.rs` describes it: layers, file heads, file sizes, where unsafe code is, names of files.
//!
//! Every rule is fed an offender once, so that none of them can rot into one that never fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module imports from lower rows and from itself only.
const LAYERS: [&[&str]; 11] = [
    &["error"],
    &["model", "platform"],
    &["format", "ops"],
    &["store", "meta"],
    &["segment", "tier"],
    &["engine"],
    &["sync", "snapshot"],
    &["api"],
    &["config"],
    &["daemon"],
    &["cli"],
];

/// Imports that are forbidden although the layers allow them.
const FORBIDDEN: [(&str, &str); 9] = [
    ("segment", "store"),
    ("segment", "meta"),
    ("segment", "tier"),
    ("api", "format"),
    ("api", "store"),
    ("api", "meta"),
    ("api", "tier"),
    ("api", "segment"),
    ("engine", "sync"),
];

/// The only files with unsafe code: the memory map and what guards it, system calls without a safe wrapper, the allocator's option, and
/// the vector kernels.
const UNSAFE_FILES: [&str; 9] = [
    "src/main.rs",
    "src/platform/lost_pages.rs",
    "src/platform/mmap.rs",
    "src/platform/real_disk.rs",
    "src/segment/vectors/avx512.rs",
    "src/segment/vectors/fastscan.rs",
    "src/segment/vectors/kernels.rs",
    "src/segment/vectors/neon.rs",
    "src/segment/vectors/products.rs",
];

const LINES_MAX: usize = 500;
const VAGUE_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 20, "only {} files found", found.len());
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The top-level module a file belongs to: `engine` for `src/engine/journal.rs`; none for the crate's roots.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let first = rest.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then_some(name)
}

/// The code before its tests.
fn product(source: &Source) -> &str {
    source.text.split("\n#[cfg(test)]\n").next().unwrap_or("")
}

fn layer_offences(source: &Source) -> Vec<String> {
    let Some(module) = module_of(&source.path) else { return Vec::new() };
    let Some(own) = layer(module) else { return vec![format!("{}: {module} is in no layer", source.path)] };
    let mut offences = Vec::new();
    for part in source.text.split("crate::").skip(1) {
        let used: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        let allowed = used == module
            || layer(&used).is_none_or(|row| row < own) && !FORBIDDEN.contains(&(module, used.as_str()));
        if !allowed {
            offences.push(format!("{}: {module} imports {used}, which is not below it", source.path));
        }
    }
    offences
}

fn head_offence(source: &Source) -> Option<String> {
    let first = source.text.lines().next().unwrap_or("");
    (!(first.starts_with("//! ") && first.len() > 12))
        .then(|| format!("{}: opens with {first:?}, expected `//!` and what the file is for", source.path))
}

fn size_offence(source: &Source) -> Option<String> {
    let lines = product(source).lines().count();
    (lines > LINES_MAX)
        .then(|| format!("{}: {lines} lines before its tests, expected at most {LINES_MAX}", source.path))
}

fn unsafe_offence(source: &Source) -> Option<String> {
    let uses = source.text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or("");
        code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
    });
    (uses && !UNSAFE_FILES.contains(&source.path.as_str()))
        .then(|| format!("{}: has unsafe code, which belongs in {UNSAFE_FILES:?}", source.path))
}

fn name_offence(source: &Source) -> Option<String> {
    let vague = Path::new(&source.path)
        .components()
        .any(|part| VAGUE_NAMES.contains(&part.as_os_str().to_string_lossy().trim_end_matches(".rs")));
    vague.then(|| format!("{}: name it after what it does", source.path))
}

/// Files that no `mod` line names are not compiled.
fn dead_files(sources: &[Source]) -> Vec<String> {
    let declares = |parent: &str, name: &str| {
        sources.iter().any(|source| {
            source.path == parent
                && source.text.lines().any(|line| {
                    let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                    line == format!("mod {name};")
                })
        })
    };
    let mut dead = Vec::new();
    for source in sources {
        let path = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some((dir, name)) = path.rsplit_once('/') else { continue };
        if matches!(source.path.as_str(), "src/lib.rs" | "src/main.rs") {
            continue;
        }
        let parents =
            [format!("{dir}/mod.rs"), format!("{dir}.rs"), format!("{dir}/lib.rs"), format!("{dir}/main.rs")];
        if !parents.iter().any(|parent| declares(parent, name)) {
            dead.push(format!("{}: no module declares it", source.path));
        }
    }
    dead
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

#[test]
fn modules_import_from_lower_layers_only() {
    assert!(!layer_offences(&source("src/format/log.rs", "use crate::engine::journal;")).is_empty());
    assert!(!layer_offences(&source("src/api/router.rs", "use crate::format::log;")).is_empty());
    assert!(!layer_offences(&source("src/other/file.rs", "")).is_empty());
    assert!(layer_offences(&source("src/engine/journal.rs", "use crate::format::log;")).is_empty());
    assert_eq!(sources().iter().flat_map(layer_offences).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn every_file_says_first_what_it_is_for() {
    assert!(head_offence(&source("src/a.rs", "use std::io;")).is_some());
    assert!(head_offence(&source("src/a.rs", "//! A.\n")).is_some());
    assert_eq!(sources().iter().filter_map(head_offence).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_file_is_too_long_to_read() {
    assert!(size_offence(&source("src/a.rs", &"line\n".repeat(LINES_MAX + 1))).is_some());
    assert!(size_offence(&source("src/a.rs", &format!("\n#[cfg(test)]\n{}", "line\n".repeat(LINES_MAX)))).is_none());
    assert_eq!(sources().iter().filter_map(size_offence).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn unsafe_code_is_where_it_is_expected() {
    assert!(unsafe_offence(&source("src/a.rs", "let x = unsafe { y };")).is_some());
    assert!(unsafe_offence(&source("src/a.rs", "// unsafe { y }")).is_none());
    assert_eq!(sources().iter().filter_map(unsafe_offence).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    assert!(name_offence(&source("src/api/utils.rs", "")).is_some());
    assert_eq!(sources().iter().filter_map(name_offence).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn every_file_is_compiled() {
    let lost = [source("src/lib.rs", "pub mod a;"), source("src/a.rs", ""), source("src/b.rs", "")];
    assert_eq!(dead_files(&lost), ["src/b.rs: no module declares it"]);
    assert_eq!(dead_files(&sources()), Vec::<String>::new());
}
