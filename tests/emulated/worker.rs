//! An emulated ARM board is a worker of an ordinary board's cluster: its clock is set, it stays Ready and
//! its pod runs on; it is rebooted in 1970 and comes back with its pod.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::board::{Board, possible};
use crate::initramfs::{IMAGE, IMAGE_FILE, Parts};
use crate::machine::RTC_1970;
use crate::switch::{Switch, is_ready};

const PODS: &str = "/api/v1/namespaces/default/pods";
const POD: &str = "/api/v1/namespaces/default/pods/on-arm";
/// Longer than a board that is silent stays Ready.
const WATCHED: Duration = Duration::from_secs(12);
const LIMIT_BYTES: u64 = 32 * 1024 * 1024;

#[test]
fn an_arm_board_works_whatever_its_clock_says() {
    let Some(parts) = Parts::find("an ARM board that works") else { return };
    if !possible("an ARM board that works") {
        return;
    }
    let switch = Switch::new("armwork");
    let mut master = switch.board(1);
    master.up(&[]);
    let mut machine = Machine::new(&switch, 2, &parts);
    println!("booted in {:?}", machine.boot(RTC_1970));
    let began = Instant::now();
    machine.start(&format!("--token {}", master.token()));
    ready(&master, &mut machine);
    println!("joined and ready in {:?}, its clock shows {}", began.elapsed(), machine.date());
    machine.kumquat(&format!("image import {IMAGE_FILE}"));
    let began = Instant::now();
    master.create(PODS, &pod(machine.node()));
    running(&master, &mut machine, 0);
    println!("its pod runs after {:?}", began.elapsed());
    limited(&mut machine);
    for date in [Date::In1970, Date::In20Years, Date::Jumping, Date::Right, Date::In20YearsSynced] {
        stays(&master, &mut machine, date);
    }
    let restarts = restarts(&master.get(POD));
    assert_eq!(restarts, Some(0), "the pod ran on");
    machine.pull_the_plug();
    let path = format!("{NODES}/{}", machine.node());
    master.wait_for("it is missed", &path, WITHIN, |node| is_ready(node) != Some(true));
    let booted = machine.boot(RTC_1970);
    let began = Instant::now();
    machine.start("");
    ready(&master, &mut machine);
    let back = began.elapsed();
    running(&master, &mut machine, 1);
    println!(
        "power cut and {}: booted in {booted:?}, ready {back:?} later, its pod runs {:?} later",
        machine.date(),
        began.elapsed()
    );
    limited(&mut machine);
}

/// A pod with a limit of memory that only runs on this board.
fn pod(node: &str) -> Value {
    let limits = json!({"memory": LIMIT_BYTES.to_string()});
    json!({
        "metadata": {"name": "on-arm"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sleep", "100000"], "resources": {"limits": limits},
            }],
        },
    })
}

/// The clock is set, and nobody notices.
fn stays(master: &Board, machine: &mut Machine, date: Date) {
    date.set(machine);
    let shown = machine.date();
    let began = Instant::now();
    let path = format!("{NODES}/{}", machine.node());
    while began.elapsed() < WATCHED {
        assert_eq!(is_ready(&master.get(&path)), Some(true), "{date:?}\n{}", machine.log());
        let pod = master.get(POD);
        assert!(is_running(&pod), "{date:?}: {pod}\n{}", machine.log());
        std::thread::sleep(Duration::from_millis(250));
    }
    println!("{date:?}: its clock was {shown}; ready and its pod running for {WATCHED:?}");
}

fn ready(master: &Board, machine: &mut Machine) {
    let path = format!("{NODES}/{}", machine.node());
    watched(master, machine, &path, &|node| is_ready(node) == Some(true));
}

/// Waits until its pod runs and was started again at least so many times.
fn running(master: &Board, machine: &mut Machine, least: u64) {
    let again = move |pod: &Value| restarts(pod).is_some_and(|count| count >= least);
    watched(master, machine, POD, &|pod| is_running(pod) && again(pod));
}

/// The same as [`Board::wait_for`]; says what the machine logged when it fails.
fn watched(master: &Board, machine: &mut Machine, path: &str, accept: &dyn Fn(&Value) -> bool) {
    let began = Instant::now();
    let mut last = Value::Null;
    while began.elapsed() < WITHIN {
        last = master.api("GET", path, None).unwrap_or_else(Value::String);
        if accept(&last) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{path}: not within {WITHIN:?}: {last}\n{}", machine.log());
}

fn is_running(pod: &Value) -> bool {
    let ready = &pod["status"]["containerStatuses"][0]["ready"];
    pod["status"]["phase"] == "Running" && *ready == true
}

fn restarts(pod: &Value) -> Option<u64> {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

/// The kernel holds the pod to its memory (cgroup v2).
fn limited(machine: &mut Machine) {
    let limits = machine.must("find /sys/fs/cgroup -name memory.max | xargs cat");
    let wanted = LIMIT_BYTES.to_string();
    assert!(limits.lines().any(|line| line == wanted), "no cgroup with {wanted}: {limits}");
    println!("a cgroup of {} has memory.max {wanted}", machine.node());
}
