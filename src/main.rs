//! The kumquat binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The keeper's processes must have one thread and little memory: they part ways first.
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = kumquat::io::keeper::dispatch(&arguments) {
        return code;
    }
    if let Some(code) = kumquat::io::exchange::dispatch(&arguments) {
        return code;
    }
    kumquat::app::main()
}
