//! The table of error codes and the codes in the source are the same.

use std::collections::BTreeSet;

use super::{Faults, File, sources};

/// What a code begins with.
const FAMILIES: [&str; 15] = [
    "auth",
    "closed",
    "commit",
    "config",
    "connect",
    "credentials",
    "deadline",
    "lost",
    "markers",
    "once",
    "read_only",
    "resolved",
    "statement",
    "throttled",
    "transaction",
];

fn is_code(text: &str) -> bool {
    let Some((family, case)) = text.split_once('.') else { return false };
    FAMILIES.contains(&family) && !case.is_empty() && case.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[test]
fn every_error_code_is_in_the_table_and_every_code_of_the_table_is_in_the_source() {
    let table = File::read("src/error/codes.md");
    let listed: BTreeSet<&str> =
        table.text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut faults = Faults::default();
    let mut used = BTreeSet::new();
    let files = sources();
    for file in files.iter().filter(|file| !file.path.contains("/tests") && !file.path.contains("fuzzing")) {
        for (number, line) in file.code() {
            for code in line.split('"').skip(1).step_by(2).filter(|text| is_code(text)) {
                used.insert(code);
                if !listed.contains(code) {
                    faults.add(file, number, format_args!("`{code}` is not in src/error/codes.md"));
                }
            }
        }
    }
    for code in listed.difference(&used) {
        faults.0.push(format!("src/error/codes.md: nothing says `{code}`"));
    }
    assert!(used.len() > 30, "only {} codes found", used.len());
    faults.none();
}
