//! Logs of the process: text on standard error, never a file.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

/// Starts logging. `KUMQUAT_LOG` sets the level: error, warn, info (default), debug, trace.
pub(super) fn start() {
    let level = std::env::var("KUMQUAT_LOG")
        .ok()
        .and_then(|text| text.parse::<LevelFilter>().ok())
        .unwrap_or(LevelFilter::INFO);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(colours)
        .with_target(false)
        .finish();
    // Others write thousands of lines a second at debug, which takes more time than their work.
    let others = level.min(LevelFilter::INFO);
    // It complains ten times a second of a master that is away; what matters of it says the driver.
    let engine = if level >= LevelFilter::DEBUG { LevelFilter::WARN } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(others).with_target("openraft", engine);
    let lines = lines.with(targets.with_target("kumquat", level));
    tracing::subscriber::set_global_default(lines).expect("logging is started once");
}
