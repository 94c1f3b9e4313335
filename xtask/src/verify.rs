//! Reading checks, and their fixing twin.

use anyhow::Result;

use crate::{
    generate::generate,
    shell::{cargo, has, run},
};

/// Checks format, lints and the code's shape; writes nothing into the tree.
pub(crate) fn verify() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    generate(&["--check".to_owned()])?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo().args(["test", "--quiet", "--test", "tidy"]))?;
    if has("cargo-deny") {
        run(cargo().args(["deny", "check", "--hide-inclusion-graph"]))?;
    } else {
        eprintln!("xtask: cargo-deny is not installed: licences and duplicates not checked");
    }
    Ok(())
}

/// Formats and applies what the linter can mend itself.
pub(crate) fn fix() -> Result<()> {
    run(cargo().args(["fmt", "--all"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"]))?;
    run(cargo().args(["fmt", "--all"]))
}
