//! Who has a port: sockets of `/proc/net`, and the programs that hold them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use logic::doctor::PortUse;

use super::{names, read};

/// Socket states of `/proc/net/tcp` (net/tcp_states.h).
const LISTEN: &str = "0A";
/// Our own VXLAN link.
const OUR_VXLAN: &str = "kq-vxlan";
/// Processes that are looked at.
const PROCESSES_MAX: usize = 32_768;

/// The ports with their owners' names.
pub(super) fn with_owners(root: &Path, mut ports: Vec<PortUse>) -> Vec<PortUse> {
    let sockets = |protocol: &str| {
        let mut all = bound(&read(root, &format!("proc/net/{protocol}")), protocol == "tcp");
        all.extend(bound(&read(root, &format!("proc/net/{protocol}6")), protocol == "tcp"));
        all
    };
    let (tcp, udp) = (sockets("tcp"), sockets("udp"));
    let of_kernel = match root.join("sys/class/net").join(OUR_VXLAN).exists() {
        true => "kumquat",
        false => "the kernel (a VXLAN link of another program)",
    };
    let mut taken: HashMap<u64, Option<String>> = HashMap::new();
    for it in &ports {
        let all = if it.protocol == "tcp" { &tcp } else { &udp };
        taken.extend(
            all.iter().filter(|(port, _)| *port == it.port).map(|(_, inode)| (*inode, None)),
        );
    }
    if !taken.is_empty() {
        name_owners(root, &mut taken);
    }
    for it in &mut ports {
        let all = if it.protocol == "tcp" { &tcp } else { &udp };
        let mine = all.iter().filter(|(port, _)| *port == it.port);
        let mut owners: Vec<String> = mine
            .map(|(_, inode)| match (inode, taken.get(inode)) {
                // The kernel's own sockets, such as that of a VXLAN link, have no inode.
                (0, _) => of_kernel.to_owned(),
                (_, Some(Some(name))) => name.clone(),
                _ => "a program".to_owned(),
            })
            .collect();
        owners.sort();
        owners.dedup();
        // Whoever is not ours is what a person wants to hear of.
        it.owner = owners.iter().find(|name| *name != "kumquat").or(owners.first()).cloned();
    }
    ports
}

/// Port and inode of the sockets of a table of `/proc/net`: those that listen, or all.
fn bound(text: &str, listening: bool) -> Vec<(u16, u64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        (!listening || *fields.get(3)? == LISTEN).then_some((port, inode))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Names the programs that hold these sockets, as far as this user may see them.
fn name_owners(root: &Path, sockets: &mut HashMap<u64, Option<String>>) {
    let proc = root.join("proc");
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    for process in names(&proc).into_iter().filter(is_process).take(PROCESSES_MAX) {
        let folder = proc.join(&process);
        let Ok(descriptors) = fs::read_dir(folder.join("fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
            let Some(inode) = inode.and_then(|it| it.parse::<u64>().ok()) else { continue };
            if let Some(name @ None) = sockets.get_mut(&inode) {
                *name = Some(read(&folder, "comm").trim().to_owned());
            }
        }
        if sockets.values().all(Option::is_some) {
            return;
        }
    }
}
