//! GET /version: the Kubernetes version that is spoken, and ours behind the plus sign.

use serde_json::{Value, json};

/// The Kubernetes release whose API is served.
const KUBERNETES: (&str, &str, &str) = ("1", "36", "2");
/// The oldest minor version whose behaviour a client may count on.
const COMPATIBLE_MINOR: &str = "35";

/// The document; `own` is kumquat's version.
pub(super) fn info(own: &str) -> Value {
    let (major, minor, patch) = KUBERNETES;
    json!({
        "major": major, "minor": minor,
        "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": COMPATIBLE_MINOR,
        "gitVersion": format!("v{major}.{minor}.{patch}+kumquat.{own}"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", platform()),
    })
}

/// Go's name of this processor.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
