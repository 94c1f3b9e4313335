//! DNS of a board on real sockets, in a network namespace of its own: what clients and upstream
//! servers see of it.
//!
//! Needs root for the namespace; prints that it skips otherwise.

#[path = "dns/bed.rs"]
mod bed;
#[path = "harness/fake_keeper.rs"]
mod fake_keeper;

use std::time::{Duration, Instant};

use bed::{Bed, SERVICE, Shown, UPSTREAM, run};
use kumquat::io::dns::Held;
use logic::dns::types;
use model::limits::DNS_CONNECTIONS_MAX;

const WEB: &str = "web.default.svc.cluster.local";

#[test]
fn programs_get_what_they_ask_for() {
    run("programs", |bed| async move {
        let serving = bed.serve();
        let nslookup = async |words: &[&str]| {
            bed.busybox(&[&["nslookup"], words, &["10.43.0.10"]].concat()).await
        };
        let said = nslookup(&["-type=a", WEB]).await;
        assert!(said.contains("10.43.0.7"), "{said}");
        // Both families, as programs ask.
        let said = nslookup(&[WEB]).await;
        assert!(said.contains("10.43.0.7") && !said.contains("NXDOMAIN"), "{said}");
        let said = nslookup(&["-type=srv", "_http._tcp.web.default.svc.cluster.local"]).await;
        assert!(said.contains("80 web.default.svc.cluster.local"), "{said}");
        let said = nslookup(&["10.43.0.7"]).await;
        assert!(said.contains("name = web.default.svc.cluster.local"), "{said}");
        let said = nslookup(&["none.default.svc.cluster.local"]).await;
        assert!(said.contains("NXDOMAIN"), "{said}");
        serving.abort();
    });
}

#[test]
fn other_names_are_asked_upstream_once() {
    run("forward", |bed| async move {
        let serving = bed.serve();
        let upstream = bed.upstream(UPSTREAM);
        let answer = bed.ask("a.example", types::A).await;
        assert_eq!(answer, Shown::addresses(&["1.2.3.4"]));
        assert_eq!(bed.ask("A.Example", types::A).await, answer, "kept, in the client's words");
        assert_eq!(upstream.asked("a.example"), 1);
        assert_eq!(bed.ask("no.example", types::A).await.rcode, 3);
        assert_eq!(bed.ask("no.example", types::A).await.rcode, 3);
        assert_eq!(upstream.asked("no.example"), 1, "absence is kept too");
        // Two clients at once, one question.
        let both =
            tokio::join!(bed.ask("slow.example", types::A), bed.ask("slow.example", types::A));
        assert_eq!((both.0.rcode, both.1.rcode), (0, 0));
        assert_eq!(upstream.asked("slow.example"), 1);
        // An alias of a service leads outside.
        let chased = bed.ask("outside.default.svc.cluster.local", types::A).await;
        assert_eq!(chased, Shown::addresses(&["1.2.3.4"]));
        assert_eq!(upstream.asked("a.example"), 1);
        for ours in ["none.default.svc.cluster.local", "9.9.43.10.in-addr.arpa", "x.cluster.local"]
        {
            assert_eq!(bed.ask(ours, types::PTR).await.rcode, 3, "{ours}");
            assert_eq!(upstream.asked(ours), 0, "{ours} is nobody else's");
        }
        // With a search domain of the host behind it, a name of the cluster is still ours.
        let searched = format!("{WEB}.lan.example");
        assert_eq!(bed.ask(&searched, types::A).await.rcode, 3);
        assert_eq!(upstream.asked(&searched), 0);
        serving.abort();
    });
}

#[test]
fn large_answers_come_over_tcp() {
    run("large", |bed| async move {
        let serving = bed.serve();
        let _upstream = bed.upstream(UPSTREAM);
        let short = bed.ask("big.example", types::A).await;
        assert!(short.truncated && short.records.len() < 120, "{} records", short.records.len());
        let whole = bed.ask_over_tcp(&["big.example", WEB]).await;
        assert_eq!((whole[0].truncated, whole[0].records.len()), (false, 120));
        assert_eq!(whole[1], Shown::addresses(&["10.43.0.7"]), "one connection, two questions");
        let many = bed.ask("many.default.svc.cluster.local", types::A).await;
        assert!(many.truncated && !many.records.is_empty());
        let many = bed.ask_over_tcp(&["many.default.svc.cluster.local"]).await;
        assert_eq!(many[0].records.len(), 200);
        serving.abort();
    });
}

#[test]
fn dead_servers_slow_nobody_who_asks_for_the_cluster() {
    run("dead", |bed| async move {
        let serving = bed.serve();
        bed.write_host("nameserver 127.0.0.5\nnameserver 127.0.0.2\n");
        let upstream = bed.upstream(UPSTREAM);
        let silent = bed.silent("127.0.0.5:53");
        let begun = Instant::now();
        assert_eq!(bed.ask("a.example", types::A).await.rcode, 0, "the second one knows");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        upstream.stop();
        // Two hundred questions that nobody answers are under way.
        let socket = bed.client().await;
        for index in 0..200 {
            let message = bed::message(&format!("n{index}.example"), types::A);
            socket.send(&message).await.expect("sent");
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let begun = Instant::now();
            assert_eq!(bed.ask(WEB, types::A).await, Shown::addresses(&["10.43.0.7"]));
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
        println!("slowest of 200 names of the cluster while upstream is dead: {slowest:?}");
        // Once they count as gone, nobody waits for them.
        assert_eq!(bed.ask("late.example", types::A).await.rcode, 2);
        let timed = async |name: &str| {
            let begun = Instant::now();
            assert_eq!(bed.ask(name, types::A).await.rcode, 2);
            begun.elapsed()
        };
        // One in a second tries whether they are back.
        let (one, two) = tokio::join!(timed("later.example"), timed("latest.example"));
        assert!(one.min(two) < Duration::from_millis(500), "{one:?} {two:?}");
        let chased = bed.ask("elsewhere.default.svc.cluster.local", types::A).await;
        assert_eq!(chased.rcode, 2);
        // They come back.
        drop(silent);
        let _upstream = bed.upstream(UPSTREAM);
        bed.until_answered("b.example").await;
        serving.abort();
    });
}

#[test]
fn the_hosts_configuration_is_followed() {
    run("host", |bed| async move {
        let serving = bed.serve();
        bed.write_host("");
        assert_eq!(bed.ask("a.example", types::A).await.rcode, 2, "there is nobody to ask");
        let upstream = bed.upstream(UPSTREAM);
        // Ourselves, in both forms, and a real one; written by an editor of another system.
        bed.write_host("\u{feff}nameserver 10.43.0.10\r\nnameserver 127.0.0.2\r\n");
        bed.until_answered("a.example").await;
        assert!(upstream.asked("a.example") > 0);
        serving.abort();
    });
}

#[test]
fn a_resolver_that_asks_us_is_found_out() {
    run("loop", |bed| async move {
        let serving = bed.serve();
        // The first server gives every question back to us; the second one is honest.
        let _mirror = bed.mirror("127.0.0.4:53");
        let _upstream = bed.upstream(UPSTREAM);
        bed.write_host("nameserver 127.0.0.4\nnameserver 127.0.0.2\n");
        bed.until_answered("a.example").await;
        for name in ["b.example", "c.example", "d.example"] {
            let begun = Instant::now();
            assert_eq!(bed.ask(name, types::A).await.rcode, 0);
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        }
        serving.abort();
    });
}

#[test]
fn queries_wait_for_the_next_agent() {
    run("queue", |bed| async move {
        let held = Held::open_at(SERVICE).expect("port 53 of an address of our own");
        let kept = held.copies().expect("copies");
        let serving = bed.serve_on(held);
        assert_eq!(bed.ask(WEB, types::A).await.rcode, 0);
        serving.abort();
        let _ended = serving.await;
        let socket = bed.client().await;
        for _ in 0..500 {
            socket.send(&bed::message(WEB, types::A)).await.expect("sent");
        }
        let waiting = bed.ask_over_tcp(&[WEB]);
        let next = Held::adopt(kept, *SERVICE.ip()).expect("its own");
        let serving = bed.serve_on(next);
        let mut buffer = [0; 512];
        for index in 0..500 {
            let answered = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer));
            assert!(answered.await.is_ok(), "query {index} was lost");
        }
        assert_eq!(waiting.await[0].rcode, 0);
        serving.abort();
    });
}

#[test]
fn noise_and_greed_harm_nobody() {
    run("noise", |bed| async move {
        let serving = bed.serve();
        let socket = bed.client().await;
        let mut dice = 1_u32;
        for length in 0..600 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (dice >> 24) as u8
                })
                .collect();
            socket.send(&bytes).await.expect("sent");
        }
        assert_eq!(bed.ask(WEB, types::A).await, Shown::addresses(&["10.43.0.7"]));
        // Connections that say nothing, or too much, do not keep others out.
        let mut idle = Vec::new();
        for index in 0..DNS_CONNECTIONS_MAX + 16 {
            let mut stream = bed.connect().await;
            if index % 2 == 0 {
                tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xff, 0xff, 1])
                    .await
                    .expect("sent");
            }
            idle.push(stream);
        }
        assert_eq!(bed.ask_over_tcp(&[WEB]).await[0].rcode, 0);
        serving.abort();
    });
}

#[test]
fn what_changes_is_answered_at_once() {
    run("change", |bed: Bed| async move {
        let serving = bed.serve();
        assert_eq!(bed.ask("new.default.svc.cluster.local", types::A).await.rcode, 3);
        bed.add_service("new", [10, 43, 0, 99]);
        let answer = bed.ask("new.default.svc.cluster.local", types::A).await;
        assert_eq!(answer, Shown::addresses(&["10.43.0.99"]));
        serving.abort();
    });
}

#[test]
fn a_board_with_another_block_answers_at_its_new_address() {
    run("moved", |bed: Bed| async move {
        let (serving, mut answered) = bed.serve_as("here").await;
        let mut at = async |octets: [u8; 4]| {
            let there = |at: &Option<_>| {
                at.is_some_and(|at: std::net::SocketAddrV4| at.ip().octets() == octets)
            };
            let known = tokio::time::timeout(Duration::from_secs(10), answered.wait_for(there));
            let at = known.await.expect("in time").expect("it runs");
            at.expect("waited for")
        };
        for (block, own) in [("10.42.0.0/25", [10, 42, 0, 1]), ("10.42.0.128/25", [10, 42, 0, 129])]
        {
            bed.give_block("here", Some(block));
            let at = at(own).await;
            assert_eq!(bed.ask_at(at, WEB, types::A).await, Shown::addresses(&["10.43.0.7"]));
            // A Node that comes back has no block for a moment; nothing moves.
            bed.give_block("here", None);
            assert_eq!(bed.ask_at(at, WEB, types::A).await, Shown::addresses(&["10.43.0.7"]));
        }
        bed.stop();
        serving.await.expect("no panic");
    });
}
