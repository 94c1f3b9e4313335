//! The kumquat binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // The keeper forks: it must begin before any thread exists.
    if let Some(code) = kumquat::io::keeper::dispatch(&args) {
        return code;
    }
    ExitCode::SUCCESS
}
