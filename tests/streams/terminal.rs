//! Terminals: exec and attach as somebody types them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bed, PODS, Stdio, WITHIN, run, until};
use crate::ends::running;
use crate::kubectl::Kubectl;

/// A kubectl on a terminal.
struct Typed {
    child: Child,
    terminal: File,
    inner: OwnedFd,
    screen: Arc<Mutex<String>>,
}

impl Typed {
    fn start(kubectl: &Kubectl, arguments: &[&str], size: (u16, u16)) -> Self {
        let pair = nix::pty::openpty(None, None).expect("a terminal");
        let inner = pair.slave;
        set_size(&inner, size);
        let stdio = || Stdio::from(inner.try_clone().expect("descriptor"));
        let child = kubectl.start(arguments, [stdio(), stdio(), stdio()]);
        let terminal = File::from(pair.master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (terminal.try_clone().expect("descriptor"), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                shown.lock().expect("screen").push_str(&text);
            }
        });
        Self { child, terminal, inner, screen }
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("typed");
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + WITHIN;
        loop {
            let screen = self.screen.lock().expect("screen").clone();
            if screen.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} is not on the screen: {screen:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn resize(&self, size: (u16, u16)) {
        set_size(&self.inner, size);
        // It is nobody's controlling terminal: the kernel tells no one.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH).expect("alive");
    }

    fn code(&mut self) -> i32 {
        let mut code = None;
        until("kubectl ends", || {
            code = self.child.try_wait().expect("a child");
            code.is_some()
        });
        code.and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn set_size(terminal: &OwnedFd, (columns, rows): (u16, u16)) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize` and keeps no pointer to it.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &size) };
    assert_eq!(set, 0, "size of the terminal");
}

#[test]
fn terminals_of_every_kubectl_on_both_boards() {
    let Some(bed) = Bed::new("tty") else { return };
    for (index, name) in ["own", "far"].into_iter().enumerate() {
        bed.pod(name, index, "exec sleep 100000", &json!({}));
    }
    for kubectl in &bed.kubectls {
        for pod in ["own", "far"] {
            shell(kubectl, pod);
        }
    }
    for (index, kubectl) in bed.extremes().into_iter().enumerate() {
        attach_to_terminal(&bed, kubectl, index);
        attach_once(&bed, kubectl, index);
        attach_to_output(&bed, kubectl, index);
        run_and_attach(kubectl);
    }
}

fn shell(kubectl: &Kubectl, pod: &str) {
    let mut typed = Typed::start(kubectl, &["exec", "-it", pod, "--", "sh"], (100, 40));
    typed.wait_for("# ");
    typed.type_in("echo $((6 * 7)) $TERM; stty size\r");
    typed.wait_for("42 xterm");
    typed.wait_for("40 100");
    typed.resize((91, 31));
    // The size travels beside what is typed.
    typed.type_in("while [ \"$(stty size)\" != '31 91' ]; do usleep 20000; done; echo re''sized\r");
    typed.wait_for("resized");
    // Ctrl-C ends the program, not the shell.
    typed.type_in("sleep 1000.125\r");
    until("it runs", || running(&["sleep", "1000.125"]) > 0);
    typed.type_in("\u{3}");
    typed.type_in("echo stil''l; exit 7\r");
    typed.wait_for("still");
    assert_eq!(typed.code(), 7, "1.{} {pod}", kubectl.minor);
}

fn attach_to_terminal(bed: &Bed, kubectl: &Kubectl, index: usize) {
    let name = format!("shell-{}", kubectl.minor);
    bed.pod(&name, index, "exec sh", &json!({"stdin": true, "tty": true}));
    for round in ["first", "second"] {
        let mut typed = Typed::start(kubectl, &["attach", "-it", &name], (80, 24));
        typed.wait_for("If you don't see a command prompt");
        typed.type_in("\r");
        typed.wait_for("# ");
        typed.type_in(&format!("echo {round}''-word; stty size\r"));
        typed.wait_for(&format!("{round}-word"));
        typed.wait_for("24 80");
        if round == "second" {
            typed.type_in("exit 0\r");
            assert_eq!(typed.code(), 0, "1.{}", kubectl.minor);
        }
    }
    bed.wait_phase(&name, "Succeeded");
    let (_, log, _) = run(kubectl, &["logs", &name], None);
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(log.contains("first-word") && log.contains("second-word"), "{log}");
}

fn attach_once(bed: &Bed, kubectl: &Kubectl, index: usize) {
    let name = format!("once-{}", kubectl.minor);
    bed.pod(&name, index, "exec cat", &json!({"stdin": true, "stdinOnce": true}));
    let input = b"through the container\n".to_vec();
    let (code, output, errors) = run(kubectl, &["attach", "-i", &name], Some(input.clone()));
    assert_eq!((code, &output), (0, &input), "1.{}: {errors}", kubectl.minor);
    bed.wait_phase(&name, "Succeeded");
}

fn attach_to_output(bed: &Bed, kubectl: &Kubectl, index: usize) {
    let name = format!("ticker-{}", kubectl.minor);
    let script =
        "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo tick; echo tock >&2; usleep 50000; done";
    bed.pod(&name, index, script, &json!({}));
    let followed = kubectl.follow(&["attach", &name]);
    assert_eq!(followed.line(), "tick");
    assert_eq!(followed.line(), "tick");
    drop(followed);
    bed.cluster.master().api("DELETE", &format!("{PODS}/{name}"), None).expect("deleted");
}

/// What people type most: a pod for one command, with its input.
fn run_and_attach(kubectl: &Kubectl) {
    let image = format!("--image={}", super::IMAGE);
    let arguments =
        ["run", "piped", &image, "-i", "--rm", "--restart=Never", "-q", "--command", "--", "cat"];
    let input = b"piped\n".to_vec();
    let (code, output, errors) = run(kubectl, &arguments, Some(input.clone()));
    assert_eq!(code, 0, "1.{}: {errors}", kubectl.minor);
    assert!(output.starts_with(&input), "1.{}: {output:?} {errors}", kubectl.minor);
}
