//! `kumquat version`: what this build is and which Kubernetes it speaks.

use serde_json::json;

use super::cli::Output;

/// This build.
pub const TEXT: &str = env!("CARGO_PKG_VERSION");

/// The Kubernetes version whose API this build serves.
pub const KUBERNETES: &str = "v1.36.2";

/// `gitVersion` of `/version` and `kubeletVersion` of the Node: `v1.36.2+kumquat.0.1.0`.
pub fn git_version() -> String {
    format!("{KUBERNETES}+kumquat.{TEXT}")
}

/// Prints the version.
pub fn print(output: Output) {
    match output {
        Output::Text => say!("kumquat {TEXT} (Kubernetes {KUBERNETES})"),
        Output::Json => say!(
            "{}",
            json!({
                "version": TEXT, "kubernetes": KUBERNETES, "gitVersion": git_version(),
                "arch": std::env::consts::ARCH,
            })
        ),
    }
}
