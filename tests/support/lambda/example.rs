//! The examples of this package that are Lambda functions.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds an example into the folder this program came from, with the cargo that runs it.
///
/// # Errors
/// It does not build, or there is no cargo and it is not built yet.
pub fn build_example(name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let this = std::env::current_exe()?;
    // It is in a folder of the profile's: `examples` or `deps`.
    let profile = this.ancestors().nth(2).ok_or("this program is not in a target directory")?;
    let target = profile.parent().ok_or("this program is not in a target directory")?;
    let example = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--example", name, "--target-dir"]).arg(target);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        // What cargo tells this program about its package would make build scripts think that something changed.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CARGO_MANIFEST_") || name_text.starts_with("CARGO_PKG_") {
                build.env_remove(&name);
            }
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null());
        if !build.status()?.success() {
            return Err(format!("the example {name} does not build").into());
        }
    }
    if !example.exists() {
        return Err(format!("build the function first: cargo build --example {name}").into());
    }
    Ok(example)
}
