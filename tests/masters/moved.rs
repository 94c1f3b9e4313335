//! All boards come back at other addresses: another router, or leases that a power cut ended.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kumquat::io::net;
use model::token::Token;
use serde_json::Value;

use crate::board::{self, Board, ETH, Lost};
use crate::forgery::{member_announcement, send_all_from};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, status, wait_until, wait_voters};

/// Masters of the cluster; one more board is a worker.
const MASTERS: usize = 3;
/// How long boards may take to find each other, on a machine that is busy.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// How long a board that is let in may take.
const JOINED_WITHIN: Duration = Duration::from_secs(60);
/// Records of members that a stranger forges while boards look for each other.
const FORGED_RECORDS: u32 = 2_000;
/// Pause of the writer.
const PAUSE: Duration = Duration::from_millis(20);

/// The address of a board after so many moves; each is to another subnet.
fn address(board: &Board, moves: u8) -> Ipv4Addr {
    let [a, b, _, number] = board.address().octets();
    Ipv4Addr::new(a, b, moves, if moves == 0 { number } else { number + 100 })
}

/// Takes the address of each board away and gives it the next one.
fn move_all(cluster: &Cluster, moves: u8) {
    for board in &cluster.boards {
        let (old, new) = (address(board, moves - 1), address(board, moves));
        let changed = net::inside(board.namespace(), || {
            let mut links = net::Links::open()?;
            links.remove_address(ETH, old, 24)?;
            links.add_address(ETH, new, 24)
        });
        changed.expect("address changed");
    }
}

#[test]
fn masters_whose_addresses_all_change_find_each_other_again() {
    if !board::possible("moved") {
        return;
    }
    let cluster = &mut grown();
    let mut written = Vec::new();

    // While they run.
    written.extend(while_writing(&cluster.boards[0], "running", || {
        move_all(cluster, 1);
        let began = Instant::now();
        led_at(cluster, 1, "running");
        println!("all addresses changed: all ready after {:?}", began.elapsed());
    }));

    // While they are off, and somebody forges who is where.
    written.extend(while_writing(&cluster.boards[0], "off", || {}));
    let token: Token = cluster.boards[0].token().parse().expect("a token");
    cluster.boards.iter_mut().for_each(Board::kill);
    move_all(cluster, 2);
    let began = Instant::now();
    cluster.boards.iter_mut().for_each(|board| board.start(&[]));
    let forged = forge(cluster, 2, &token);
    led_at(cluster, 2, "off");
    println!(
        "all addresses changed while off: all ready after {:?}, with {forged} forged records",
        began.elapsed()
    );

    // The same where multicast is filtered: one board is named.
    written.extend(while_writing(&cluster.boards[0], "filtered", || {}));
    cluster.boards.iter_mut().for_each(Board::kill);
    move_all(cluster, 3);
    let named = address(&cluster.boards[1], 3).to_string();
    let began = Instant::now();
    for board in &mut cluster.boards {
        board.lose(Lost::Multicast);
        board.start(&["--peers", &named]);
    }
    led_at(cluster, 3, "filtered");
    println!("the same with multicast filtered: all ready after {:?}", began.elapsed());
    all_are_there(&cluster.boards[2], &written);
}

/// Three masters and a worker.
fn grown() -> Cluster {
    let mut cluster = Cluster::off("moved", MASTERS as u8 + 1);
    cluster.role = "auto";
    cluster.boards[0].up(&[]);
    for index in 1..MASTERS {
        cluster.start_joining(index);
    }
    let token = cluster.boards[0].token();
    cluster.boards[MASTERS].start(&["--token", &token]);
    (1..=MASTERS).for_each(|index| cluster.wait_ready(index, JOINED_WITHIN));
    wait_voters(&cluster, 0, "3");
    cluster
}

/// Writes at a board's own door until `work` is done and one more write was accepted; gives what was.
fn while_writing(board: &Board, name: &str, work: impl FnOnce()) -> Vec<String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let (mut accepted, began) = (Vec::new(), Instant::now());
            for number in 0.. {
                let name = format!("{name}-{number}");
                let is_last = stop.load(Ordering::SeqCst);
                if board.api("POST", MAPS, Some(&config_map(&name))).is_ok() {
                    accepted.push(name);
                    if is_last {
                        return accepted;
                    }
                }
                assert!(began.elapsed() < 2 * FOUND_WITHIN, "nothing is accepted any more");
                std::thread::sleep(PAUSE);
            }
            unreachable!("numbers do not end")
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::SeqCst);
        match worked {
            Ok(()) => writing.join().expect("the writer"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Waits until somebody leads, every board is ready at its new address, and the masters' rows say so.
fn led_at(cluster: &Cluster, moves: u8, name: &str) {
    let began = Instant::now();
    let door = &cluster.boards[0];
    // What is not answered may have happened: a name is tried once.
    let tries = Cell::new(0);
    wait_until("a write", &cluster.boards, FOUND_WITHIN, || {
        tries.set(tries.get() + 1);
        let map = config_map(&format!("{name}-led-{}", tries.get()));
        door.api("POST", MAPS, Some(&map)).is_ok()
    });
    println!("{name}: a write is accepted after {:?}", began.elapsed());
    wait_until("all are ready", &cluster.boards, FOUND_WITHIN, || {
        let said = status(door);
        let all = said["boards"].as_array().map_or(&[][..], Vec::as_slice);
        let is_ready = |board: &Value| board["ready"] == true;
        all.len() == cluster.boards.len()
            && all.iter().all(is_ready)
            && said["voters"].as_array().map(Vec::len) == Some(MASTERS)
    });
    wait_until("all are at their new addresses", &cluster.boards, FOUND_WITHIN, || {
        let rows = "/api/v1/namespaces/kube-system/configmaps/kumquat-masters";
        let Ok(rows) = door.api("GET", rows, None) else { return false };
        let rows = rows["data"].to_string();
        cluster.boards.iter().enumerate().all(|(index, board)| {
            let address = address(board, moves).to_string();
            let node = door.api("GET", &format!("/api/v1/nodes/{}", board.node()), None);
            let says = |node: Value| node["status"]["addresses"][0]["address"] == address.as_str();
            node.is_ok_and(says) && (index >= MASTERS || rows.contains(&address))
        })
    });
}

/// Announces every master elsewhere, signed by nobody.
fn forge(cluster: &Cluster, moves: u8, token: &Token) -> usize {
    let own = Ipv4Addr::new(198, 19, moves, 254);
    let added = net::inside(cluster.switch.namespace(), || {
        net::Links::open()?.add_address(board::BRIDGE, own, 24)
    });
    added.expect("address of the switch");
    let authority = token.pin[..16].try_into().expect("half of a pin");
    let records = (0..FORGED_RECORDS).map(|number| {
        let member = u64::from(number) % MASTERS as u64 + 1;
        member_announcement(authority, member, Ipv4Addr::from(u32::from(own) - 1 - number % 90))
    });
    send_all_from(own, records, &cluster.switch)
}

fn all_are_there(board: &Board, written: &[String]) {
    let list = board.get(MAPS);
    let kept: std::collections::BTreeSet<&str> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    let lost: Vec<_> = written.iter().filter(|name| !kept.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    println!("{} acknowledged writes are there", written.len());
    assert!(written.len() > 20, "the writer wrote {} times", written.len());
}
