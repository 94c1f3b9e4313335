//! Three real boards on a switch: an image of one starts on the others; links cut, a board killed on
//! the way. Figures: time, bytes over each link by the interface counters, bytes fetched in all.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kumquat::io::image::build::{SingleFile, write_archive};
use kumquat::io::net;
use serde_json::{Value, json};

use crate::board::{Board, ETH, possible, text};
use crate::busybox;
use crate::switch::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";
const WITHIN: Duration = Duration::from_secs(180);

/// Bytes that came over a board's interface, and that went.
fn traffic(board: &Board) -> (u64, u64) {
    // Of this thread's network namespace, unlike /sys.
    let read = || fs::read_to_string("/proc/thread-self/net/dev");
    let text = net::inside(board.namespace(), read).expect("counters");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{ETH}:")));
    let numbers: Vec<u64> =
        line.expect("the interface").split_whitespace().filter_map(|n| n.parse().ok()).collect();
    (numbers[0], numbers[8])
}

/// An archive of busybox with random bytes behind its end, which no program minds.
fn archive(board: &Board, name: &str, bytes: usize) -> PathBuf {
    let program = board.data_dir().with_file_name("large");
    let mut file = fs::File::create(&program).expect("made");
    file.write_all(&fs::read("/bin/busybox").expect("there")).expect("written");
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("random bytes");
    file.write_all(&random).expect("written");
    let image = SingleFile {
        name,
        program: &program,
        path: "bin/busybox",
        links: &["bin/sh", "bin/sleep", "bin/echo", "bin/hostname"],
        entrypoint: &["/bin/sh"],
    };
    let path = board.data_dir().with_file_name("large.tar");
    write_archive(&image, &mut fs::File::create(&path).expect("made")).expect("packed");
    path
}

fn import(board: &Board, name: &str, bytes: usize) {
    let archive = archive(board, name, bytes);
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
}

/// Digest and bytes of the image as the board lists it.
fn listed(board: &Board, name: &str) -> Option<(String, u64)> {
    let output = board.command(&["image", "list", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).ok()?;
    let rows = list.as_array()?;
    let row = rows.iter().find(|row| row["name"].as_str().is_some_and(|it| it.ends_with(name)))?;
    Some((row["digest"].as_str()?.to_owned(), row["size"].as_u64()?))
}

fn pod(cluster: &Cluster, board: &Board, image: &str) -> String {
    let name = format!("{}-{}", image.replace([':', '.', '/'], "-"), board.node());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": board.node(), "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
            "args": ["-c", "echo hello from $(hostname); sleep 1000"],
        }]},
    });
    cluster.master().create(PODS, &pod);
    name
}

fn runs(cluster: &Cluster, pod: &str) {
    let path = format!("{PODS}/{pod}");
    cluster.master().wait_for("pod runs", &path, WITHIN, |pod| pod["status"]["phase"] == "Running");
}

#[test]
fn real_boards_give_each_other_images_and_logs() {
    if !possible("images-boards") || !busybox::present("images-boards") {
        return;
    }
    let cluster = Cluster::new("images", 3);
    let size = crate::image_bytes(8);
    for (from, name) in [(1, "kumquat.test/of-worker:v1"), (0, "kumquat.test/of-master:v1")] {
        import(&cluster.boards[from], name, size);
        let expected = listed(&cluster.boards[from], name).expect("imported");
        let before: Vec<_> = cluster.boards.iter().map(traffic).collect();
        let begun = Instant::now();
        let others: Vec<_> =
            cluster.boards.iter().filter(|b| b.node() != cluster.boards[from].node()).collect();
        let pods: Vec<_> = others.iter().map(|board| pod(&cluster, board, name)).collect();
        for (board, pod) in others.iter().zip(&pods) {
            runs(&cluster, pod);
            println!(
                "{name}: {} MiB run on {} after {:?}",
                size >> 20,
                board.node(),
                begun.elapsed()
            );
            assert_eq!(listed(board, name).as_ref(), Some(&expected));
        }
        for (board, before) in cluster.boards.iter().zip(before) {
            let (came, went) = traffic(board);
            println!("  {}: {} bytes in, {} out", board.node(), came - before.0, went - before.1);
            // The leader passes on what it does not have itself.
            let times = match (board.node() == others[0].node(), from) {
                _ if board.node() == cluster.boards[from].node() => 0,
                (true, 1) => 2,
                _ => 1,
            };
            // Acknowledgements of what it sends count too.
            let most = times * expected.1 * 11 / 10 + expected.1 / 20 + 200_000;
            let came = came - before.0;
            assert!(came < most, "{came} bytes into {}", board.node());
        }
        let log = cluster.master().api_text(&format!("{PODS}/{}/log", pods[1]));
        assert_eq!(log.expect("a log"), format!("hello from {}\n", pods[1]));
    }
}

#[test]
fn a_long_cut_and_a_killed_board_cost_little() {
    if !possible("images-cut") || !busybox::present("images-cut") {
        return;
    }
    let mut cluster = Cluster::new("imagecut", 3);
    let (size, name) = (crate::image_bytes(48), "kumquat.test/cut:v1");
    import(&cluster.boards[1], name, size);
    let begun = Instant::now();
    let before = traffic(&cluster.boards[2]).0;
    let pod = pod(&cluster, &cluster.boards[2], name);
    let came = |cluster: &Cluster| traffic(&cluster.boards[2]).0 - before;
    let wait_bytes = |cluster: &Cluster, share: f64| {
        let deadline = Instant::now() + WITHIN;
        while (came(cluster) as f64) < share * size as f64 {
            assert!(Instant::now() < deadline, "only {} bytes came", came(cluster));
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let mut random = [0; 2];
    getrandom::fill(&mut random).expect("random bytes");
    wait_bytes(&cluster, 0.1 + 0.2 * f64::from(random[0]) / 256.0);
    println!("cable out after {} bytes", came(&cluster));
    cluster.boards[2].unplug();
    // Longer than the kernel waits for what was sent.
    std::thread::sleep(Duration::from_secs(13));
    cluster.boards[2].replug();
    wait_bytes(&cluster, 0.5 + 0.2 * f64::from(random[1]) / 256.0);
    println!("killed after {} bytes", came(&cluster));
    cluster.boards[2].kill();
    cluster.boards[2].start(&[]);
    runs(&cluster, &pod);
    let came = came(&cluster);
    println!("{size} bytes: {came} came in {:?}", begun.elapsed());
    assert_eq!(listed(&cluster.boards[2], name), listed(&cluster.boards[1], name));
    assert!((came as f64) < 1.2 * size as f64, "{came} bytes for {size}");
}
