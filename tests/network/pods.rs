//! Three boards on one link.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};

use kumquat::io::net;
use model::limits::PREPARED_NAMESPACES_MAX;
use serde_json::json;

use crate::bed::{
    PATIENCE, PODS, all_reach_each_other, create, log, pod_links, reaches, running, wait_pod_links,
};
use crate::board::{possible, text};
use crate::busybox::present;
use crate::switch::Cluster;

/// Namespaces that are ready: those in the queue and the one that waits to get into it.
const READY: usize = PREPARED_NAMESPACES_MAX;

#[test]
fn pods_reach_each_other_across_boards_through_restart_and_reboot() {
    let name = "pods_reach_each_other_across_boards_through_restart_and_reboot";
    if !possible(name) || !present(name) {
        return;
    }
    let mut cluster = Cluster::new("net", 3);
    cluster.import_busybox(0);
    for number in 0..6 {
        create(&cluster, &format!("p{number}"), number % 3, |_| {});
    }
    let pods: Vec<_> =
        (0..6).map(|number| running(&cluster, &format!("p{number}"), number % 3)).collect();
    all_reach_each_other(&pods);
    addresses_are_of_the_boards_block(&cluster, &pods);
    let hosts = log(&cluster, "p1");
    let address = pods[1].address;
    assert!(hosts.contains(&format!("IP={address}\n")), "{hosts}");
    assert!(hosts.contains(&format!("{address}\tp1\n")), "{hosts}");

    // Boards reach pods of all boards, under their own address of their block.
    for (index, board) in cluster.boards.iter().enumerate() {
        for pod in &pods {
            let (seen, _) = reaches(board.namespace(), pod);
            let IpAddr::V4(seen) = seen else { panic!("{seen}") };
            assert_eq!(seen.to_bits() & 0x7f, 1, "{seen}");
            assert_eq!(block(seen), block(pods[index].address), "{seen} of board {index}");
        }
    }
    a_restart_of_the_agent_is_not_noticed(&mut cluster, &pods);
    a_lost_link_is_mended(&cluster, &pods);
    a_reboot_brings_addresses_back(&mut cluster, &pods);
    nothing_stays_behind(&mut cluster);
}

fn block(address: Ipv4Addr) -> u32 {
    address.to_bits() >> 7
}

fn addresses_are_of_the_boards_block(cluster: &Cluster, pods: &[crate::bed::Pod]) {
    for pod in pods {
        let node = cluster.master().get(&format!("/api/v1/nodes/board-{}", pod.board + 1));
        let cidr = node["spec"]["podCIDR"].as_str().expect("a block");
        let parsed: model::network::Ipv4Block = cidr.parse().expect("a block");
        assert!(parsed.contains(pod.address), "{cidr} {}", pod.address);
    }
}

/// Connections live on, addresses stay, and links do not pile up.
fn a_restart_of_the_agent_is_not_noticed(cluster: &mut Cluster, pods: &[crate::bed::Pod]) {
    wait_pod_links(&cluster.boards[1], 2 + READY);
    let listener =
        net::inside(&pods[1].namespace, || TcpListener::bind("0.0.0.0:0")).expect("listener");
    let at = (pods[1].address, listener.local_addr().expect("bound").port());
    let mut near = net::inside(&pods[0].namespace, || TcpStream::connect(at)).expect("connected");
    let (mut far, _) = listener.accept().expect("accepted");
    for _ in 0..2 {
        cluster.boards[1].kill();
        near.write_all(b"a").expect("sent while the agent is gone");
        far.read_exact(&mut [0]).expect("received while the agent is gone");
        reaches(&pods[2].namespace, &pods[1]);
        cluster.boards[1].start(&[]);
        cluster.wait_ready(1, PATIENCE);
    }
    let again = running(cluster, "p1", 1);
    assert_eq!(again.address, pods[1].address);
    assert_eq!(again.namespace, pods[1].namespace);
    wait_pod_links(&cluster.boards[1], 2 + READY);
    near.write_all(b"b").expect("sent after the restart");
    far.read_exact(&mut [0]).expect("received after the restart");
    create(cluster, "fresh", 1, |_| {});
    let fresh = running(cluster, "fresh", 1);
    assert!(pods.iter().all(|pod| pod.address != fresh.address), "{}", fresh.address);
    reaches(&fresh.namespace, &pods[1]);
    cluster.master().api("DELETE", &format!("{PODS}/fresh"), None).expect("deleted");
    wait_pod_links(&cluster.boards[1], 2 + READY);
}

/// Somebody deletes a pod's link: the board makes another one, with the same address.
fn a_lost_link_is_mended(cluster: &Cluster, pods: &[crate::bed::Pod]) {
    delete_links(&cluster.boards[0]);
    reaches(&pods[1].namespace, &pods[0]);
    reaches(&pods[0].namespace, &pods[3]);
}

/// Deletes the links of all pods, and those made beforehand.
fn delete_links(board: &crate::board::Board) {
    let deleted = net::inside(board.namespace(), || {
        let mut links = net::Links::open()?;
        for link in links.list()? {
            if net::is_pod_link(&link.name) {
                links.delete(&link.name)?;
            }
        }
        Ok(())
    });
    deleted.expect("links deleted");
}

/// Sooner than the board writes addresses to its disk.
fn a_reboot_brings_addresses_back(cluster: &mut Cluster, before: &[crate::bed::Pod]) {
    cluster.boards[1].pull_the_plug();
    cluster.boards[1].start(&[]);
    cluster.wait_ready(1, PATIENCE);
    let path = format!("{PODS}/p1");
    cluster.master().wait_for("the pod again", &path, PATIENCE, |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
            && pod["status"]["phase"] == "Running"
    });
    let pods: Vec<_> =
        (0..6).map(|number| running(cluster, &format!("p{number}"), number % 3)).collect();
    all_reach_each_other(&pods);
    // Two that begin their search at one place may have changed places.
    let addresses = |pods: &[crate::bed::Pod]| -> BTreeSet<Ipv4Addr> {
        pods.iter().map(|pod| pod.address).collect()
    };
    assert_eq!(addresses(&pods), addresses(before));
}

/// Links go with their pods, the rest with `--stop-pods`.
fn nothing_stays_behind(cluster: &mut Cluster) {
    for number in [2, 5] {
        cluster.master().api("DELETE", &format!("{PODS}/p{number}"), None).expect("deleted");
    }
    wait_pod_links(&cluster.boards[2], READY);
    let board = &mut cluster.boards[2];
    board.stop();
    board.start(&["--stop-pods"]);
    let waited = board.command(&["wait", "--timeout", "30s"]);
    assert!(waited.status.success(), "{}", text(&waited));
    wait_pod_links(board, READY);
    board.stop();
    assert_eq!(pod_links(board), [] as [&str; 0]);
    let left = net::inside(board.namespace(), || {
        let addresses = net::Links::open()?.addresses()?;
        Ok((net::Routes::open()?.list()?, addresses))
    });
    let (routes, addresses) = left.expect("looked");
    assert_eq!(routes, []);
    let own = addresses.iter().filter(|known| known.address.octets()[..2] == [10, 42]).count();
    assert_eq!(own, 0, "{addresses:?}");
}

/// As when the record of its place is torn, or an earlier version made the pod.
#[test]
fn a_pod_without_a_place_starts_again_in_another_sandbox() {
    let name = "a_pod_without_a_place_starts_again_in_another_sandbox";
    if !possible(name) || !present(name) {
        return;
    }
    let mut cluster = Cluster::new("placeless", 1);
    cluster.import_busybox(0);
    create(&cluster, "lost", 0, |_| {});
    create(&cluster, "other", 0, |_| {});
    let (lost, other) = (running(&cluster, "lost", 0), running(&cluster, "other", 0));
    cluster.boards[0].kill();
    let uid = lost.namespace.parent().and_then(|folder| folder.file_name()).expect("a uid");
    let record = cluster.boards[0].run_dir().join("pods").join(uid).join("network.json");
    std::fs::write(record, "{").expect("torn");
    cluster.boards[0].start(&[]);
    cluster.wait_ready(0, PATIENCE);
    let path = format!("{PODS}/lost");
    cluster.master().wait_for("the pod again", &path, PATIENCE, |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
            && pod["status"]["phase"] == "Running"
    });
    all_reach_each_other(&[running(&cluster, "lost", 0), running(&cluster, "other", 0)]);
    let pod = cluster.master().get(&format!("{PODS}/other"));
    assert_eq!(pod["status"]["podIP"], other.address.to_string());
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    wait_pod_links(&cluster.boards[0], 2 + READY);

    // A namespace that has lost its link is nobody's place.
    delete_links(&cluster.boards[0]);
    create(&cluster, "fresh", 0, |_| {});
    let fresh = running(&cluster, "fresh", 0);
    reaches(cluster.boards[0].namespace(), &fresh);
    let events = cluster.master().get("/api/v1/namespaces/default/events");
    let mut events = events["items"].as_array().expect("a list").iter();
    let failed = events.find(|event| event["reason"] == "FailedCreatePodSandBox");
    assert!(failed.is_none(), "{failed:?}");
}

#[test]
fn pods_of_the_host_network_have_the_boards_address() {
    let name = "pods_of_the_host_network_have_the_boards_address";
    if !possible(name) || !present(name) {
        return;
    }
    let cluster = Cluster::new("hostnet", 1);
    cluster.import_busybox(0);
    create(&cluster, "host", 0, |pod| pod["spec"]["hostNetwork"] = json!(true));
    create(&cluster, "named", 0, |pod| {
        pod["spec"]["hostname"] = json!("db");
        pod["spec"]["subdomain"] = json!("data");
        pod["spec"]["hostAliases"] = json!([{ "ip": "192.0.2.9", "hostnames": ["elsewhere"] }]);
    });
    let host = running(&cluster, "host", 0);
    assert_eq!(host.address, cluster.boards[0].address());
    let said = log(&cluster, "host");
    assert!(said.contains(&format!("IP={}\n", host.address)), "{said}");
    assert!(said.contains("# Kubernetes-managed hosts file (host network)."), "{said}");
    let named = running(&cluster, "named", 0);
    let said = log(&cluster, "named");
    let line = format!("{}\tdb.data.default.svc.cluster.local\tdb\n", named.address);
    assert!(said.contains(&line), "{said}");
    assert!(said.contains("192.0.2.9\telsewhere\n"), "{said}");
    wait_pod_links(&cluster.boards[0], 1 + READY);
}
