//! Three masters whose clocks are wrong: 1970, twenty years ahead, jumping, of the leader, of a follower
//! or of all at once. Boards join, kubectl and tokens work, the group stays as it is, certificates are
//! renewed when a majority has a time server to believe.
//!
//! A few cells here; all with `KUMQUAT_SOAK_ROUNDS=2`. Needs a build with `--features fault-injection`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::board::{Board, possible, rounds, text};
use crate::switch::{Cluster, is_ready};
use crate::three::{leader, status, wait_until};
use crate::wrong_clocks::{TO_1970, TWENTY_YEARS, Wrong, make_wrong, mend};

const NODES: &str = "/api/v1/nodes";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const WITHIN: Duration = Duration::from_secs(60);

/// Whose clocks are wrong.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Leader,
    Follower,
    Majority,
    All,
}

#[test]
fn wrong_clocks_of_masters_lock_nobody_out() {
    if !possible("clocks of masters") {
        return;
    }
    if !cfg!(feature = "fault-injection") {
        return println!("not run: clocks of masters needs --features fault-injection");
    }
    let mut cluster = Cluster::of_masters("mclocks", 3);
    let waited = cluster.boards[0].command(&["wait", "--voters", "3", "--timeout", "120s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[0].log());
    let unsynced = [Wrong::By(TO_1970, false), Wrong::By(TWENTY_YEARS, false), Wrong::Jumping];
    let mut cells = Vec::new();
    for wrong in unsynced {
        cells.extend([Whose::Leader, Whose::Follower, Whose::All].map(|whose| (wrong, whose)));
    }
    // One clock with a time server does not outvote two without; two do.
    let synced = Wrong::By(TWENTY_YEARS, true);
    cells.extend([(synced, Whose::Follower), (synced, Whose::Majority), (synced, Whose::All)]);
    if rounds(1) == 1 {
        let few = |at: usize| cells[at];
        cells = [0, 5, 7, 10].map(few).to_vec();
    }
    let old = issue(&cluster.boards[leading(&cluster)]);
    for (nth, (wrong, whose)) in cells.into_iter().enumerate() {
        let is_believed =
            matches!((wrong, whose), (Wrong::By(_, true), Whose::Majority | Whose::All));
        let number = u8::try_from(nth).expect("few cells") + 4;
        one(&mut cluster, number, wrong, whose, is_believed);
        if !is_believed {
            assert!(is_good(&cluster.boards[leading(&cluster)], &old), "{wrong:?} of {whose:?}");
        }
    }
    // Twenty years have gone by: certificates are made out again, and the old ones still open.
    let master = &cluster.boards[leading(&cluster)];
    let renewed = wait_until("the admin's certificate is issued again", &[], WITHIN, || {
        let again = "the admin's certificate was issued again";
        cluster.boards.iter().any(|board| board.log().contains(again))
    });
    println!("the admin's certificate was issued again {renewed:?} after the last cell");
    master.api("GET", NODES, None).expect("the old kubeconfig");
    master.forget_kubeconfig();
    master.api("GET", NODES, None).expect("a new one");
}

/// One cell: clocks go wrong, everything works, clocks are right again.
fn one(cluster: &mut Cluster, number: u8, wrong: Wrong, whose: Whose, is_believed: bool) {
    let what = format!("{wrong:?} of {whose:?}");
    let began = Instant::now();
    let first = leading(cluster);
    let mut fresh = cluster.switch.board(number);
    let of = |indices: &[usize]| indices.iter().map(|at| &cluster.boards[*at]).collect::<Vec<_>>();
    match whose {
        Whose::Leader => make_wrong(&of(&[first]), wrong),
        Whose::Follower => make_wrong(&of(&[(first + 1) % 3]), wrong),
        Whose::Majority => make_wrong(&of(&[first, (first + 1) % 3]), wrong),
        Whose::All => {
            let mut all = of(&[0, 1, 2]);
            all.push(&fresh);
            make_wrong(&all, wrong);
        }
    }
    let master = &cluster.boards[leading(cluster)];
    let before = time(master);
    let printed = master.command(&["kubeconfig"]);
    assert!(printed.status.success(), "{what}: {}", text(&printed));
    let token = issue(master);
    assert!(is_good(master, &token), "{what}: a token that was issued now");
    let token = master.token();
    fresh.start(&["--token", &token]);
    let path = format!("{NODES}/{}", fresh.node());
    master.wait_for(&what, &path, WITHIN, |node| is_ready(node) == Some(true));
    let after = time(master);
    println!("{what}: joined and ready in {:?}; cluster time {after}", began.elapsed());
    assert!(after >= before, "{what}: time goes back: {before} {after}");
    assert_eq!(after.as_str() >= "2040", is_believed, "{what}: {after}");
    wait_until(&what, &cluster.boards, WITHIN, || {
        let said = status(&cluster.boards[leading(cluster)]);
        let boards = said["boards"].as_array().cloned().unwrap_or_default();
        let ready = boards.iter().filter(|board| board["ready"] == true).count();
        said["voters"].as_array().map_or(0, Vec::len) == 3 && ready >= 4
    });
    fresh.stop();
    cluster.boards.iter().for_each(mend);
}

fn leading(cluster: &Cluster) -> usize {
    let began = Instant::now();
    loop {
        if let Some(index) = leader(&cluster.boards, |_| true) {
            return index;
        }
        assert!(began.elapsed() < WITHIN, "nobody leads");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Cluster time, as it is stamped on an object.
fn time(master: &Board) -> String {
    let made = master.create(MAPS, &json!({"metadata": {"generateName": "time-"}}));
    made["metadata"]["creationTimestamp"].as_str().expect("a time").to_owned()
}

/// A token of a service account.
fn issue(master: &Board) -> String {
    let made =
        master.create(ACCOUNT, &json!({"spec": {"audiences": [], "expirationSeconds": 3600}}));
    made["status"]["token"].as_str().expect("a token").to_owned()
}

fn is_good(master: &Board, token: &str) -> bool {
    let said = master.create(REVIEWS, &json!({"spec": {"token": token}}));
    said["status"]["authenticated"] == true
}
