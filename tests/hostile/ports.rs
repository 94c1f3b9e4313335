//! Strangers and bad members on the ports for boards: 8883 (bus), 7443 (peers) and mDNS.
//!
//! While all attacks run at once, writes over the API go on; their latency before and during the attack
//! is printed, and what the board takes is bounded.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::strangers::{
    ATTACKS, BUS, HALF_OPEN, connect_packet, half_open, resident_kb, say, showing, slow, tls,
    writes,
};
use super::{running, still_serves};

/// A write during the attack that takes longer is a failure, on however slow a machine.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// More memory than this is not taken by an attack.
const GROWTH_KB_MAX: u64 = 96 * 1024;

#[test]
fn strangers_on_every_port_do_not_slow_the_board_down() {
    let Some(board) = running("ports") else { return };
    let theirs = board.data_dir().parent().expect("the board's folder").join("theirs");
    still_serves(&board, "before");
    let before = writes(&board, "calm");
    say("before", &before);
    let (memory, lines) = (resident_kb(&board), board.log().lines().count());

    let (ended, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let during = std::thread::scope(|scope| {
        let attackers = ATTACKS.map(|attack| {
            let (board, theirs, ended, rounds) = (&board, &theirs, &ended, &rounds);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    attack(board, theirs);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let during = writes(&board, "attack");
        ended.store(true, Ordering::Relaxed);
        attackers.into_iter().for_each(|it| it.join().expect("each attack ends as it should"));
        during
    });
    say("during", &during);
    let grown = resident_kb(&board).saturating_sub(memory);
    let said = board.log().lines().count() - lines;
    let rounds = rounds.load(Ordering::Relaxed);
    println!("{rounds} attacks: {grown} kB more resident, {said} lines in the log");
    assert!(during.last().is_some_and(|worst| *worst < WRITE_WITHIN), "{during:?}");
    assert!(grown < GROWTH_KB_MAX, "{grown} kB");
    still_serves(&board, "after");
}

#[test]
fn a_connect_that_comes_byte_by_byte_is_left() {
    let Some(board) = running("slow") else { return };
    slow(&board);
    still_serves(&board, "after");
}

/// Thousands of connections that only open take no place from a board that comes with a certificate.
#[test]
fn half_open_connections_keep_no_board_out() {
    let Some(board) = running("half-open") else { return };
    let open = half_open(&board);
    println!("{} half-open connections", open.len());
    assert!(open.len() > HALF_OPEN, "the machine lets them be opened");
    let data = board.data_dir();
    let mut member = tls(&board, BUS, &showing(Some((&data, "late")), b"mqtt")).expect("accepts");
    member.write_all(&connect_packet(b"late")).expect("the handshake has its turn");
    let mut answer = [0; 4];
    member.read_exact(&mut answer).expect("CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0], "accepted");
    drop(open);
    still_serves(&board, "after");
}
