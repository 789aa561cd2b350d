//! What `.ci/setup` gets for the tests, and what becomes of a test without it.

use std::path::{Path, PathBuf};

/// Whether a missing program is a failure instead of a reason to skip.
pub fn required() -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    set("RDS_PROXY_POOL_REQUIRE_SERVERS") || set("CI")
}

/// Says that a test is skipped for want of something; panics where that is a failure.
pub fn skip(why: &str) {
    assert!(!required(), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// A folder that `.ci/setup` made below `target/tools`, or `None` after saying that the test is skipped.
pub fn folder(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    // Its last act.
    if folder.join("made-of").is_file() {
        return Some(folder);
    }
    skip(&format!("no {} for this test: .ci/setup makes it", folder.display()));
    None
}
