//! Boards whose addresses change, as when a router hands out new leases.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use kumquat::io::net;

use crate::bed::{PATIENCE, all_reach_each_other, create, reaches, running};
use crate::board::{Board, ETH, possible};
use crate::busybox::present;
use crate::switch::Cluster;

/// Another address of a board, on another subnet than the first.
fn moved(board: &Board) -> Ipv4Addr {
    let [.., last] = board.address().octets();
    Ipv4Addr::new(198, 19, 7, last + 100)
}

/// Takes a board's address away and gives it another one.
fn change_address(board: &Board) {
    let changed = net::inside(board.namespace(), || {
        let mut links = net::Links::open()?;
        links.remove_address(ETH, board.address(), 24)?;
        links.add_address(ETH, moved(board), 24)
    });
    changed.expect("address changed");
}

#[test]
fn pods_reach_each_other_again_when_all_boards_have_new_addresses() {
    let name = "pods_reach_each_other_again_when_all_boards_have_new_addresses";
    if !possible(name) || !present(name) {
        return;
    }
    let cluster = Cluster::new("moves", 3);
    cluster.import_busybox(0);
    for number in 0..3 {
        create(&cluster, &format!("p{number}"), number, |_| {});
    }
    let pods: Vec<_> =
        (0..3).map(|number| running(&cluster, &format!("p{number}"), number)).collect();
    all_reach_each_other(&pods);

    let began = Instant::now();
    cluster.boards.iter().for_each(change_address);
    for from in &pods {
        for to in &pods {
            reaches(&from.namespace, to);
        }
    }
    println!("all boards moved: pods reach each other after {:?}", began.elapsed());
    for board in &cluster.boards {
        let path = format!("/api/v1/nodes/{}", board.node());
        let address = moved(board).to_string();
        cluster.master().wait_for("the board's new address", &path, PATIENCE, |node| {
            node["status"]["addresses"][0]["address"] == address.as_str()
                && crate::switch::is_ready(node) == Some(true)
        });
    }
    println!("all boards moved: Nodes are Ready after {:?}", began.elapsed());
    create(&cluster, "later", 2, |_| {});
    let later = running(&cluster, "later", 2);
    reaches(&pods[0].namespace, &later);
}

#[test]
fn pods_reach_each_other_again_when_an_interface_was_down() {
    let name = "pods_reach_each_other_again_when_an_interface_was_down";
    if !possible(name) || !present(name) {
        return;
    }
    let cluster = Cluster::new("flaps", 2);
    cluster.import_busybox(0);
    for number in 0..2 {
        create(&cluster, &format!("p{number}"), number, |_| {});
    }
    let pods: Vec<_> =
        (0..2).map(|number| running(&cluster, &format!("p{number}"), number)).collect();
    all_reach_each_other(&pods);

    let board = &cluster.boards[1];
    for round in 0..3 {
        // The kernel forgets the routes through a link that goes down.
        let down = net::inside(board.namespace(), || net::Links::open()?.set_down(ETH));
        down.expect("down");
        std::thread::sleep(Duration::from_millis(300 * round));
        net::inside(board.namespace(), || net::Links::open()?.set_up(ETH)).expect("up");
        let began = Instant::now();
        all_reach_each_other(&pods);
        println!("interface up again: pods reach each other after {:?}", began.elapsed());
    }
}
