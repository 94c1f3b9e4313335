//! The kernel: control groups, what it can do, the size of its pages.

use super::{Facts, FeatureState, Finding};

/// The usual size of memory pages.
const PAGE_BYTES: u64 = 4_096;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![cgroup(facts)];
    findings.extend(features(facts));
    findings.extend(pages(facts));
    findings
}

fn cgroup(facts: &Facts) -> Finding {
    const CHECK: &str = "memory-cgroup";
    let has = |name: &str| facts.cgroup_controllers.iter().any(|controller| controller == name);
    if facts.cgroup_version == 0 {
        return Finding::fail(
            CHECK,
            "no control groups are mounted at /sys/fs/cgroup: no container can be started",
            "mount -t cgroup2 none /sys/fs/cgroup (systemd does this by itself; in a chroot or a \
             container mount it from outside)",
        );
    }
    if !has("memory") {
        let remedy = facts.kernel_file.remedy(&facts.profile.kernel.words);
        return Finding::warn(
            CHECK,
            "the memory controller of the control groups is off: memory limits of containers are not \
             enforced, and one of them can take the whole board down",
            remedy,
        );
    }
    if !has("pids") {
        return Finding::warn(
            CHECK,
            "the kernel has no pids controller: the number of a container's processes is not limited",
            "use a kernel with CONFIG_CGROUP_PIDS",
        );
    }
    Finding::ok(
        CHECK,
        format!("memory can be limited (control groups version {})", facts.cgroup_version),
    )
}

/// One finding per thing that is not there, or one for all.
fn features(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "kernel-features";
    let bad = |state| matches!(state, FeatureState::Missing | FeatureState::Refused);
    let mut findings: Vec<Finding> = Vec::new();
    for feature in facts.features.iter().filter(|feature| bad(feature.state)) {
        let (name, purpose) = (feature.name, feature.purpose);
        let what = match feature.state {
            FeatureState::Refused => {
                format!("the kernel refuses {name}, which is needed for {purpose}")
            }
            _ => format!(
                "the kernel {} lacks {name}, which is needed for {purpose}",
                facts.kernel_version
            ),
        };
        let remedy = match feature.state {
            FeatureState::Refused => format!("modprobe {name}, then look at `dmesg`"),
            _ => lacking(facts, name),
        };
        findings.push(match feature.vital {
            true => Finding::fail(CHECK, what, remedy),
            false => Finding::warn(CHECK, what, remedy),
        });
    }
    let known: Vec<&str> = facts
        .features
        .iter()
        .filter(|feature| !bad(feature.state) && feature.state != FeatureState::Unknown)
        .map(|feature| feature.name)
        .collect();
    if findings.is_empty() && !known.is_empty() {
        findings.push(Finding::ok(CHECK, format!("the kernel has {}", known.join(", "))));
    }
    findings
}

/// Where a module comes from that is not on the disk.
fn lacking(facts: &Facts, name: &str) -> String {
    let is_pi = facts.profile.name.starts_with("raspberry-pi");
    let version = &facts.kernel_version;
    match (is_pi, name) {
        (true, "vxlan") if version.contains("raspi") => {
            format!("apt install linux-modules-extra-{version} (Ubuntu), then reboot")
        }
        (true, _) => {
            "reboot when the kernel was just upgraded (its modules belong to the new one); else `apt \
             full-upgrade` and reboot"
                .to_owned()
        }
        _ => format!(
            "reboot when the kernel was just upgraded (its modules belong to the new one); else use a \
             kernel with the module {name}"
        ),
    }
}

fn pages(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "page-size";
    if facts.page_bytes == 0 {
        return None;
    }
    let kib = facts.page_bytes / 1_024;
    if facts.page_bytes == PAGE_BYTES {
        return Some(Finding::ok(CHECK, "memory pages of 4 KiB"));
    }
    let what = format!(
        "memory pages of {kib} KiB: programs that were built for 4 KiB only (some with jemalloc, old \
         databases) fail with `Unsupported system page size`"
    );
    // A board whose usual size it is has no fault.
    let usual = facts.profile.page_kib.first().is_some_and(|it| u64::from(*it) == kib);
    let note = match facts.profile.note.as_str() {
        note if usual && !note.is_empty() => note.to_owned(),
        _ => "use a kernel with 4 KiB pages if such a program is needed".to_owned(),
    };
    Some(match usual {
        true => Finding { remedy: Some(note), ..Finding::ok(CHECK, what) },
        false => Finding::warn(CHECK, what, note),
    })
}
