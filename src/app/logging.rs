//! Logs of the process: text on standard error, never a file.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

/// Starts logging. `KUMQUAT_LOG` sets the level: error, warn, info (default), debug, trace.
pub(super) fn start() {
    let level = std::env::var("KUMQUAT_LOG")
        .ok()
        .and_then(|text| text.parse::<LevelFilter>().ok())
        .unwrap_or(LevelFilter::INFO);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(colours)
        .with_target(false)
        .init();
}
