//! The rules of this repository that can be read off its files, checked by reading them.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/codes.rs"]
mod codes;
#[path = "tidy/sleeps.rs"]
mod sleeps;

/// Modules from the ground up. A file names only modules to the left of its own or on the floors below.
const FLOORS: [&[&str]; 5] = [
    // Plain values.
    &["clock", "secret", "key", "options", "outcome", "error", "observe"],
    // Pure decisions: no await, no lock, the time is an argument.
    &["config", "deadline", "backoff", "retry", "statement", "sign"],
    // Engines, and one outside effect per file.
    &["engine", "credentials", "token", "socket", "attend", "connect"],
    // The pool.
    &["connection", "pool", "transaction", "closure", "once", "executor"],
    // Edges.
    &["global", "postgres", "emulator", "fuzzing", "guide", "lib"],
];

/// A connection on loan returns to its pool: the one pair of modules that name each other.
const KNOWN_CYCLE: (&str, &str) = ("connection", "pool");

/// All that the emulator shares with the crate it tests; a common mistake would cancel out.
const SHARED_WITH_EMULATOR: [&str; 2] = ["clock", "secret"];

const UNSAFE: &str = "unsafe";

const MAX_LINES: usize = 400;

const TOP_LEVEL: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "examples",
    "tests",
    "benches",
    "CHANGELOG.md",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

#[test]
fn a_file_names_only_modules_below_its_own() {
    let order: Vec<&str> = FLOORS.concat();
    let mut faults = Faults::default();
    for file in sources() {
        let Some(place) = order.iter().position(|name| *name == file.module()) else {
            faults.add(&file, 1, "the module has no floor: give it one in tests/tidy.rs");
            continue;
        };
        for (number, line) in file.code() {
            for named in modules_named(line) {
                let allowed = match order.iter().position(|name| *name == named) {
                    None => false,
                    Some(other) if other == place => true,
                    Some(_) if file.module() == "emulator" => SHARED_WITH_EMULATOR.contains(&named),
                    Some(other) => other < place || (file.module(), named) == KNOWN_CYCLE,
                };
                if !allowed {
                    faults.add(&file, number, format_args!("`{}` must not name `{named}`", file.module()));
                }
            }
        }
    }
    faults.none();
}

#[test]
fn only_the_engine_folder_knows_an_engine() {
    let mut faults = Faults::default();
    for file in sources().into_iter().filter(|file| file.module() != "engine") {
        for (number, line) in file.code() {
            // The one alias users write.
            if line.contains("sqlx_postgres") && file.module() != "postgres" {
                faults.add(&file, number, "names the driver");
            }
            // The emulator plays a server, and servers send these.
            if file.module() != "emulator" && line.split('"').skip(1).step_by(2).any(is_sqlstate) {
                faults.add(&file, number, "names an SQLSTATE");
            }
        }
    }
    faults.none();
}

#[test]
fn one_file_has_unsafe_code() {
    let mut faults = Faults::default();
    for file in rust_files() {
        if file.path == "src/socket/linux.rs" {
            continue;
        }
        let outside_strings = |line: &str| line.split('"').step_by(2).flat_map(words).any(|word| word == UNSAFE);
        for (number, _) in file.all_code().filter(|(_, line)| outside_strings(line)) {
            faults.add(&file, number, "unsafe code belongs in src/socket/linux.rs");
        }
    }
    faults.none();
}

#[test]
fn one_file_reads_the_clock() {
    let mut faults = Faults::default();
    for file in sources().into_iter().filter(|file| file.module() != "clock") {
        let now = |(_, line): &(usize, &str)| line.contains("SystemTime::now") || line.contains("Instant::now");
        for (number, _) in file.code().filter(now) {
            faults.add(&file, number, "take the time from a `Clock`");
        }
    }
    faults.none();
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut faults = Faults::default();
    for file in rust_files() {
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            faults.add(&file, lines, format_args!("more than {MAX_LINES} lines: split it"));
        }
    }
    faults.none();
}

#[test]
fn nothing_is_left_unfinished_and_no_test_is_switched_off() {
    // Put together here, or this file would be the first to break the rule.
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let switched_off = ["ignore]", "ignore ="].map(|end| format!("#[{end}"));
    let mut faults = Faults::default();
    for file in rust_files() {
        for (number, line) in file.all_code() {
            for bad in macros.iter().chain(&switched_off).filter(|bad| line.contains(bad.as_str())) {
                faults.add(&file, number, format_args!("`{bad}`"));
            }
        }
    }
    faults.none();
}

#[test]
fn the_top_level_stays_as_it_is() {
    let mut faults = Faults::default();
    for name in names_in("") {
        // `target` is cargo's, as is the original manifest in a packaged crate.
        let known = TOP_LEVEL.contains(&name.as_str()) || ["target", "Cargo.toml.orig"].contains(&name.as_str());
        if !known && !name.starts_with('.') {
            faults.0.push(format!("{name}: not one of {TOP_LEVEL:?} or a dot-file"));
        }
    }
    faults.none();
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let mut manifests = files("toml");
    manifests.retain(|file| file.path.ends_with("Cargo.toml"));
    manifests.push(File::read("Cargo.toml"));
    let mut faults = Faults::default();
    for manifest in &manifests {
        let (mut in_dependencies, mut above) = (false, "");
        for (number, line) in (1..).zip(manifest.text.lines()) {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies
                && line.starts_with(|c: char| c.is_ascii_alphanumeric())
                && !above.starts_with('#')
            {
                let name = line.split(' ').next().unwrap_or(line);
                faults.add(manifest, number, format_args!("no comment above `{name}`"));
            }
            above = line;
        }
    }
    faults.none();
}

#[test]
fn every_file_and_test_the_readme_names_is_there() {
    let readme = File::read("README.md");
    let mut faults = Faults::default();
    let mut tests = 0;
    for (number, line) in (1..).zip(readme.text.lines()) {
        for (before, after) in line.match_indices("](").map(|(at, link)| (&line[..at], &line[at + link.len()..])) {
            let target = after.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !root().join(target).exists() {
                faults.add(&readme, number, format_args!("there is no {target}"));
                continue;
            }
            let label = before.rsplit('[').next().unwrap_or_default();
            if let Some(name) = label.strip_prefix('`').and_then(|label| label.strip_suffix('`')) {
                tests += 1;
                if target.ends_with(".rs") && !File::read(target).text.contains(&format!("fn {name}(")) {
                    faults.add(&readme, number, format_args!("{target} has no test `{name}`"));
                }
            }
        }
    }
    assert!(tests > 0, "README.md names no test: is its form of links still `[`name`](tests/it/file.rs)`?");
    faults.none();
}

#[test]
fn every_file_of_tests_is_compiled() {
    let main = File::read("tests/it/main.rs");
    let mut faults = Faults::default();
    for name in names_in("tests/it").iter().filter_map(|name| name.strip_suffix(".rs")).filter(|name| *name != "main") {
        if !main.text.lines().any(|line| line == format!("mod {name};")) {
            faults.add(&main, 1, format_args!("no `mod {name};`, so tests/it/{name}.rs never runs"));
        }
    }
    faults.none();
}

/// What is wrong, all of it, each with its place.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, file: &File, line: usize, why: impl Display) {
        self.0.push(format!("{}:{line}: {why}", file.path));
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

/// A file with its path from the root.
struct File {
    path: String,
    text: String,
}

impl File {
    fn read(path: &str) -> File {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        File { path: path.to_owned(), text }
    }

    /// The module of the crate it belongs to: `pool` for `src/pool.rs` and `src/pool/live.rs`.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split(['/', '.']).next().unwrap_or(inside)
    }

    /// Numbered lines without comments.
    fn all_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let without_comment = |line| match line {
            line if str::trim_start(line).starts_with("//") => "",
            line => line.split(" // ").next().unwrap_or(line),
        };
        (1..).zip(self.text.lines().map(without_comment))
    }

    /// Those before the unit tests, which come last in a file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut lines = self.text.lines().zip(self.text.lines().skip(1));
        let tests = lines.position(|(line, next)| line == "#[cfg(test)]" && next.ends_with('{'));
        self.all_code().take(tests.unwrap_or(usize::MAX))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The crate's files, those that hold only unit tests apart.
fn sources() -> Vec<File> {
    rust_files().into_iter().filter(|file| file.path.starts_with("src/") && !file.path.ends_with("tests.rs")).collect()
}

fn rust_files() -> Vec<File> {
    let files = files("rs");
    assert!(files.len() > 20, "only {} files found: is this the repository?", files.len());
    files
}

/// The files of all packages that end so, but for what cargo makes.
fn files(extension: &str) -> Vec<File> {
    let mut folders: Vec<PathBuf> = ["src", "tests", "examples", "benches"].map(PathBuf::from).into();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder) {
            let path = folder.join(&name);
            if root().join(&path).is_dir() {
                // A package of its own may have been built there.
                folders.extend((name != "target").then_some(path));
            } else if path.extension().is_some_and(|is| is == extension) {
                files.push(File::read(path.to_str().expect("our names are ASCII")));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// What is in a folder; nothing if there is none.
fn names_in(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().expect("our names are ASCII")).collect()
}

/// The modules in `crate::name` and `crate::{name, other::Item}`; what starts with a capital is no module.
fn modules_named(line: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for (at, prefix) in line.match_indices("crate::") {
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => named.extend(words(rest).next()),
            Some(group) => {
                let mut depth = 0;
                let top = group.split(|c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                });
                named.extend(top.filter_map(|item| words(item.trim_start()).next()));
            }
        }
    }
    named.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    named
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Five capitals and digits, one digit at least.
fn is_sqlstate(text: &str) -> bool {
    text.len() == 5
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && text.bytes().any(|b| b.is_ascii_digit())
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(modules_named("use crate::pool::{Fence, Pool};"), ["pool"]);
    assert_eq!(modules_named("use crate::{clock::{Clock, Gap}, error::Error, Pool};"), ["clock", "error"]);
    assert_eq!(modules_named("impl $crate::pool::Pool<X> { fn f() -> $crate::Error }"), ["pool"]);
    assert!(is_sqlstate("57P01") && is_sqlstate("08000") && !is_sqlstate("BEGIN") && !is_sqlstate("utf-8"));
    let file = File { path: "src/pool/live.rs".into(), text: "a // b\n// c\nd\n#[cfg(test)]\nmod tests {\ne\n".into() };
    assert_eq!(file.module(), "pool");
    assert_eq!(file.code().collect::<Vec<_>>(), [(1, "a"), (2, ""), (3, "d")]);
}
