//! What a board suffers from, from the files of its kernel to its Node at the master.

use std::fs;
use std::path::{Path, PathBuf};

use model::profile::{BOARD_LABEL, MODEL_LABEL};
use model::resource;
use serde_json::Value;

use crate::bed::{Bed, until};
use kumquat::master::registry::ListQuery;

/// What a board sees of its machine.
struct Host(PathBuf);

impl Host {
    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("in the folder")).expect("folder");
        fs::write(path, text).expect("file");
    }
}

/// A Raspberry Pi 4 whose memory cgroup is off.
fn pi(folder: &Path) -> Host {
    let host = Host(folder.join("pi-1/host"));
    let files = [
        ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0"),
        ("proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0"),
        ("proc/meminfo", "MemTotal:        3884360 kB\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
        ("boot/firmware/cmdline.txt", "console=tty1 rootwait\n"),
        ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
        (ALARM, "0\n"),
    ];
    for (path, text) in files {
        host.write(path, text);
    }
    host
}

const ALARM: &str = "sys/class/hwmon/hwmon1/in0_lcrit_alarm";

fn objects(bed: &Bed, plural: &str) -> Vec<Value> {
    let row = resource::find("", "v1", plural).expect("a kind");
    let listed = bed.loops.registry.list(&ListQuery::all(row, None)).expect("listed");
    let items = listed.items.iter();
    items.map(|item| serde_json::from_slice(&item.json()).expect("JSON")).collect()
}

fn condition(bed: &Bed, kind: &str) -> Option<Value> {
    let node = objects(bed, "nodes").into_iter().find(|node| node["metadata"]["name"] == "pi-1")?;
    let conditions = node["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).cloned()
}

fn was_told(bed: &Bed, reason: &str, level: &str) -> bool {
    let about = |event: &Value| {
        event["involvedObject"]["kind"] == "Node" && event["involvedObject"]["name"] == "pi-1"
    };
    let events = objects(bed, "events");
    events.iter().any(|it| about(it) && it["reason"] == reason && it["type"] == level)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ailment_is_on_the_node_until_its_remedy() {
    let bed = Bed::new("health").await;
    let host = pi(bed.folder.path());
    let master = bed.master((1, 1)).await;
    let board = bed.board("pi-1", &master).await;
    until("it says what it lacks", || condition(&bed, "MemoryLimitsMissing").is_some()).await;
    let missing = condition(&bed, "MemoryLimitsMissing").expect("just seen");
    let said = missing["message"].as_str().expect("text");
    assert!(said.contains("one line of /boot/firmware/cmdline.txt"), "{said}");
    assert_eq!(condition(&bed, "Undervoltage"), None);
    let node = &objects(&bed, "nodes")[0];
    assert_eq!(node["metadata"]["labels"][BOARD_LABEL], "raspberry-pi-4");
    assert_eq!(node["metadata"]["labels"][MODEL_LABEL], "Raspberry-Pi-4-Model-B-Rev-1.5");
    assert_eq!(node["status"]["allocatable"]["cpu"], "3950m");

    host.write("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
    host.write(ALARM, "1\n");
    until("its voltage is seen", || condition(&bed, "Undervoltage").is_some()).await;
    let low = condition(&bed, "Undervoltage").expect("just seen");
    assert_eq!(low["status"], "True");
    let said = low["message"].as_str().expect("text");
    assert!(said.contains("5.1 V, 3 A"), "{said}");
    assert_eq!(condition(&bed, "MemoryLimitsMissing"), None, "gone after its remedy");
    until("both are told", || {
        was_told(&bed, "Undervoltage", "Warning")
            && was_told(&bed, "MemoryLimitsMissingOver", "Normal")
    })
    .await;
    board.end().await;
    master.stop().await;
}
