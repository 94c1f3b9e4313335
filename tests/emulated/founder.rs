//! An emulated ARM board founds the cluster and leads it while its clock is set: ordinary boards join,
//! kubectl and tokens work, time does not go back, certificates are renewed once a time server is believed.

use std::time::Instant;

use serde_json::json;

use super::*;
use crate::board::possible;
use crate::initramfs::Parts;
use crate::machine::RTC_1970;
use crate::switch::{Switch, is_ready};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

#[test]
fn an_arm_board_leads_whatever_its_clock_says() {
    let Some(parts) = Parts::find("an ARM board that leads") else { return };
    if !possible("an ARM board that leads") {
        return;
    }
    let switch = Switch::new("armlead");
    switch.listen();
    let mut machine = Machine::new(&switch, 1, &parts);
    println!("booted in {:?}: {}", machine.boot(RTC_1970), machine.must("uname -srm"));
    let began = Instant::now();
    machine.start("");
    machine.kumquat("wait --timeout 90s");
    println!("founded in {:?}, its clock shows {}", began.elapsed(), machine.date());
    let old = issue(&mut machine);
    let dates = [Date::In1970, Date::In20Years, Date::Jumping, Date::Right, Date::In20YearsSynced];
    for (number, date) in (2..).zip(dates) {
        cell(&switch, &mut machine, number, date, &old);
    }
    renewed(&mut machine);
    rebooted(&switch, &mut machine);
}

/// One cell: the clock is set, and everything works.
fn cell(switch: &Switch, machine: &mut Machine, number: u8, date: Date, old: &str) {
    let before = time(machine);
    date.set(machine);
    let shown = machine.date();
    machine.api("GET", NODES, None).expect("the kubeconfig from before");
    if let Some(nodes) = machine.kubectl(&["get", "nodes", "--no-headers"]) {
        assert!(nodes.contains(machine.node()), "{nodes}");
    }
    let token = issue(machine);
    assert!(is_good(machine, &token), "{date:?}: a token that was issued now");
    assert!(is_good(machine, old), "{date:?}: the token from before the clock was set");
    let took = join(switch, machine, number);
    let after = time(machine);
    println!("{date:?}: its clock was {shown}; a board joined in {took:?}; cluster time {after}");
    assert!(after >= before, "{date:?}: time goes back: {before} {after}");
    let is_believed = matches!(date, Date::In20YearsSynced);
    assert_eq!(after.as_str() >= "2040", is_believed, "{date:?}: {after}");
}

/// An ordinary board joins with a token of now; it is gone when this returns.
fn join(switch: &Switch, machine: &mut Machine, number: u8) -> Duration {
    let began = Instant::now();
    let token = machine.kumquat("token create --role worker");
    let mut fresh = switch.board(number);
    fresh.start(&["--token", &token]);
    let path = format!("{NODES}/{}", fresh.node());
    machine.wait_for("a board joins", &path, WITHIN, |node| is_ready(node) == Some(true));
    let took = began.elapsed();
    fresh.stop();
    took
}

/// A time server was believed over twenty years.
fn renewed(machine: &mut Machine) {
    let began = Instant::now();
    while !machine.has_logged("the admin's certificate was issued again") {
        assert!(began.elapsed() < WITHIN, "no new certificate\n{}", machine.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("the admin's certificate was issued again {:?} after the last cell", began.elapsed());
    machine.api("GET", NODES, None).expect("the old kubeconfig");
    machine.forget_kubeconfig();
    machine.api("GET", NODES, None).expect("a new one");
}

/// The power goes, and the clock begins in 1970 again. Tokens from before the last step have ended then:
/// a master remembers steps of time as long as it runs.
fn rebooted(switch: &Switch, machine: &mut Machine) {
    let before = time(machine);
    let token = issue(machine);
    machine.pull_the_plug();
    let booted = machine.boot(RTC_1970);
    let began = Instant::now();
    machine.start("");
    let path = format!("{NODES}/{}", machine.node());
    machine.wait_for("it leads again", &path, WITHIN, |node| is_ready(node) == Some(true));
    let after = time(machine);
    println!(
        "power cut and {}: booted in {booted:?}, ready again {:?} later; cluster time {after}",
        machine.date(),
        began.elapsed()
    );
    assert!(after >= before, "time goes back: {before} {after}");
    assert!(is_good(machine, &token), "the token from before the power cut");
    let took = join(switch, machine, 9);
    println!("power cut: a board joined in {took:?}");
}

/// Cluster time, as it is stamped on an object.
fn time(machine: &mut Machine) -> String {
    let made = machine.create(MAPS, &json!({"metadata": {"generateName": "time-"}}));
    made["metadata"]["creationTimestamp"].as_str().expect("a time").to_owned()
}

/// A token of a service account.
fn issue(machine: &mut Machine) -> String {
    let asked = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
    let made = machine.create(ACCOUNT, &asked);
    made["status"]["token"].as_str().expect("a token").to_owned()
}

fn is_good(machine: &mut Machine, token: &str) -> bool {
    let said = machine.create(REVIEWS, &json!({"spec": {"token": token}}));
    said["status"]["authenticated"] == true
}
