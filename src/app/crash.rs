//! Crash-only: a panic in any thread or task ends the process, whatever the build profile.
//!
//! A loop that panics must not leave a board that looks alive and does half of its work. Containers
//! go on, and whatever supervises the process starts it again. (Release builds abort by themselves.)

use std::panic;

/// Prints a panic as usual, then aborts.
pub(super) fn on_panic() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |facts| {
        usual(facts);
        eprintln!(
            "kumquat: this is a bug: the process ends here, pods go on; start `kumquat up` again and \
             report the lines above"
        );
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const INNER: &str = "KUMQUAT_TEST_PANIC_INSIDE";

    /// Runs itself in a process of its own, where a spawned task panics and nobody waits for it.
    #[test]
    fn a_panic_in_a_forgotten_task_ends_the_process() {
        if std::env::var_os(INNER).is_some() {
            on_panic();
            let runtime = tokio::runtime::Runtime::new().expect("runtime");
            runtime.block_on(async {
                tokio::spawn(async { panic!("inside") });
                tokio::time::sleep(std::time::Duration::from_secs(20)).await;
            });
            return;
        }
        let name = "app::crash::tests::a_panic_in_a_forgotten_task_ends_the_process";
        let test = std::env::current_exe().expect("path of this test");
        let output =
            Command::new(test).args(["--exact", name, "--nocapture"]).env(INNER, "1").output();
        let output = output.expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("inside") && said.contains("report the lines above"), "{said}");
    }
}
