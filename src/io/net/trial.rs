//! Whether the kernel makes the links and takes the rules that pods need: tried for real, in a
//! namespace of its own.
//!
//! A module that is only on the disk is loaded by that, as a start of the first pod would do it. The
//! namespace ends with its thread, and all that was made with it.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

use logic::network::rules::{Rules, Site, plan};
use model::network::{NetEndpoint, NetPort, NetService, NetState, Protocol};
use nix::sched::{CloneFlags, unshare};

use super::Links;
use super::namespace::on_thread;
use super::nft::{Nft, NftError};

/// Kinds of links by their modules' names, each with what came of making one.
///
/// # Errors
/// There is no namespace to be had: only root may try.
pub fn links() -> io::Result<[(&'static str, io::Result<()>); 2]> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut links = Links::open()?;
        let own = File::open("/proc/thread-self/ns/net")?;
        links.set_up("lo")?;
        let veth = links.add_veth("kqtry0", "kqtry1", own.as_fd());
        let vxlan = links.add_vxlan("kqtry2", (1, 8_472), [2, 0, 0, 0, 0, 1], 1_450);
        Ok([("veth", veth), ("vxlan", vxlan)])
    })
}

/// Whether the packet filter takes the rules of a board with a service of every kind.
///
/// # Errors
/// There is no namespace to be had: only root may try.
pub fn rules() -> io::Result<Result<(), NftError>> {
    let rules = sample();
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Nft::open().and_then(|filter| filter.replace(&rules)))
    })
}

/// Rules with all that the planner can ask for: node port, affinity, load balancer, names, refusal.
fn sample() -> Rules {
    let block = |text: &str| text.parse().expect("a block");
    let at = |last| Ipv4Addr::new(10, 43, 0, last);
    let endpoint = |last| NetEndpoint {
        address: Ipv4Addr::new(10, 42, 0, last),
        board: "try".to_owned(),
        hostname: String::new(),
        pod: String::new(),
        ready: true,
        serving: true,
        terminating: false,
        ports: vec![80],
    };
    let service = |name: &str, last, affinity_seconds, endpoints| NetService {
        namespace: "try".to_owned(),
        name: name.to_owned(),
        cluster_ip: Some(at(last)),
        load_balancer: vec![Ipv4Addr::new(192, 0, 2, last)],
        ports: vec![NetPort {
            port: 80,
            node_port: 30_000 + u16::from(last),
            ..NetPort::default()
        }],
        affinity_seconds,
        endpoints,
        ..NetService::default()
    };
    let mut state = NetState::default();
    for service in [
        service("spread", 1, 0, vec![endpoint(2), endpoint(3)]),
        service("sticky", 2, 60, vec![endpoint(2), endpoint(3)]),
        service("nobody", 3, 0, Vec::new()),
    ] {
        state.services.insert(format!("try/{}", service.name).into(), Arc::new(service));
    }
    let site = Site {
        block: Some(block("10.42.0.0/25")),
        dns: Some((at(10), 10_053)),
        own_ports: vec![(Protocol::Tcp, 6_443)],
        ..Site::new("try", block("10.42.0.0/16"), block("10.43.0.0/16"))
    };
    plan(&Arc::new(state), &Arc::default(), &site)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_works_here_and_leaves_nothing() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: network namespaces need root");
            return;
        }
        for (name, made) in links().expect("a namespace") {
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(nix::net::if_::if_nametoindex("kqtry0").is_err(), "not in this namespace");
        rules().expect("a namespace").expect("the kernel takes them");
    }
}
