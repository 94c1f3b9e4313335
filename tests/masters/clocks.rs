//! Three masters whose clocks are wrong: 1970, twenty years ahead, jumping, of the leader, of a follower
//! or of all at once. Boards join, kubectl and tokens work, the group stays as it is, certificates are
//! renewed when a majority has a time server to believe.
//!
//! A few cells here; all with `cargo xtask soak clocks`, where the leader also dies in each and comes back
//! with the clock that it has. Needs a build with `--features fault-injection`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::board::{Board, possible, rounds, text};
use crate::switch::{Cluster, is_ready};
use crate::three::{leader, standing, status, wait_until};
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
    let is_long = rounds(1) > 1;
    if !is_long {
        let few = |at: usize| cells[at];
        cells = [0, 5, 7, 10].map(few).to_vec();
    }
    let mut old = issue(&cluster.boards[leading(&cluster)]);
    let mut day = String::new();
    let mut table =
        vec![format!("{:<34} {:>10} {:>10} cluster time", "clocks", "joined s", "led s")];
    for (nth, (wrong, whose)) in cells.into_iter().enumerate() {
        let is_believed =
            matches!((wrong, whose), (Wrong::By(_, true), Whose::Majority | Whose::All));
        let number = u8::try_from(nth).expect("few cells") + 4;
        let what = format!("{wrong:?} of {whose:?}");
        let mut fresh = cluster.switch.board(number);
        let joined = one(&mut cluster, &mut fresh, wrong, whose, is_believed);
        let led = is_long.then(|| leader_dies(&mut cluster, &what, is_believed));
        let now = time(&cluster.boards[leading(&cluster)]);
        // A master that starts anew does not know by how much the clock was set before.
        if !is_believed && (!is_long || now[..10] == day) {
            assert!(is_good(&cluster.boards[leading(&cluster)], &old), "{what}");
        }
        if is_long {
            old = issue(&cluster.boards[leading(&cluster)]);
            day = now[..10].to_owned();
        }
        fresh.stop();
        cluster.boards.iter().for_each(mend);
        table.push(row(&what, joined, led, &now));
    }
    println!("{}", table.join("\n"));
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

fn row(what: &str, joined: Duration, led: Option<Duration>, time: &str) -> String {
    let led = led.map_or("-".to_owned(), |led| format!("{:.1}", led.as_secs_f64()));
    format!("{what:<34} {:>10.1} {led:>10} {time}", joined.as_secs_f64())
}

/// One cell: clocks go wrong, everything works; how long a board took to join.
fn one(
    cluster: &mut Cluster,
    fresh: &mut Board,
    wrong: Wrong,
    whose: Whose,
    is_believed: bool,
) -> Duration {
    let what = format!("{wrong:?} of {whose:?}");
    let first = leading(cluster);
    let of = |indices: &[usize]| indices.iter().map(|at| &cluster.boards[*at]).collect::<Vec<_>>();
    match whose {
        Whose::Leader => make_wrong(&of(&[first]), wrong),
        Whose::Follower => make_wrong(&of(&[(first + 1) % 3]), wrong),
        Whose::Majority => make_wrong(&of(&[first, (first + 1) % 3]), wrong),
        Whose::All => {
            let mut all = of(&[0, 1, 2]);
            all.push(fresh);
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
    let began = Instant::now();
    fresh.start(&["--token", &token]);
    let path = format!("{NODES}/{}", fresh.node());
    master.wait_for(&what, &path, WITHIN, |node| is_ready(node) == Some(true));
    let joined = began.elapsed();
    let after = time(master);
    println!("{what}: joined and ready in {joined:?}; cluster time {after}");
    assert!(after >= before, "{what}: time goes back: {before} {after}");
    assert_eq!(after.as_str() >= "2040", is_believed, "{what}: {after}");
    wait_until(&what, &cluster.boards, WITHIN, || {
        let said = status(&cluster.boards[leading(cluster)]);
        let ready = |name: &str| {
            let boards = said["boards"].as_array().into_iter().flatten();
            boards.into_iter().any(|board| board["name"] == name && board["ready"] == true)
        };
        said["voters"].as_array().map_or(0, Vec::len) == 3
            && ready(fresh.node())
            && cluster.boards.iter().all(|board| ready(board.node()))
    });
    joined
}

/// Another master leads, maybe one with a wrong clock; the dead one follows it with the clock that it has.
/// How long it took until the next write.
fn leader_dies(cluster: &mut Cluster, what: &str, is_believed: bool) -> Duration {
    let first = leading(cluster);
    let (before, token) = (time(&cluster.boards[first]), issue(&cluster.boards[first]));
    cluster.boards[first].kill();
    let killed = Instant::now();
    let next = || leader(&cluster.boards, |index| index != first);
    wait_until(what, &cluster.boards, WITHIN, || {
        let map = json!({"metadata": {"generateName": "next-"}});
        next().is_some_and(|at| cluster.boards[at].api("POST", MAPS, Some(&map)).is_ok())
    });
    let led = killed.elapsed();
    let next = next().expect("it was there");
    let master = &cluster.boards[next];
    let after = time(master);
    println!("{what}: {} leads after {led:?}; cluster time {after}", master.node());
    assert!(after >= before, "{what}: time goes back with the lead: {before} {after}");
    assert_eq!(after.as_str() >= "2040", is_believed, "{what}: {after}");
    // Where two of three clocks were wrong within half a minute the next leader may be a day ahead of the last
    // one, and what that made has aged by a day.
    if before[..10] == after[..10] {
        assert!(is_good(master, &token), "{what}: a token of the leader that died");
    }
    cluster.boards[first].start(&[]);
    let name = cluster.boards[first].node();
    wait_until(what, &cluster.boards, WITHIN, || {
        let (said, own) = (status(&cluster.boards[next]), status(&cluster.boards[first]));
        standing(&said, name) == "voter" && own["leader"] == cluster.boards[next].node()
    });
    led
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
