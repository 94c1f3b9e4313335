//! Removes what a container left: its cgroup, its state, its bundle and its writable layer.
//!
//! libcontainer's own delete is not used: it kills by a pid that may have been reused.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::overlay::remove_tree;
use super::{Failure, Site, answer};
use crate::io::keeper::cgroup::Hierarchies;
use crate::io::keeper::record::RecordV1;

/// Runs in a fork of the holder, once the container's init process is gone. Tells the client only of
/// a failure: success is told by the holder, when it has forgotten the container.
pub(in crate::io::keeper) fn run(site: &Site, id: &str, stream: Option<UnixStream>) -> u8 {
    let record = RecordV1::read_begun(&site.layout.container(id)).ok();
    match (clean(site, id, record.as_ref()), stream) {
        (Ok(()), _) => 0,
        (Err(error), Some(mut stream)) => answer(&mut stream, Err(Failure::from(error))),
        (Err(error), None) => {
            eprintln!("removing {id}: {error}");
            1
        }
    }
}

/// Removes every trace of a container but its log; what is not there is fine.
pub(super) fn clean(site: &Site, id: &str, record: Option<&RecordV1>) -> io::Result<()> {
    let hierarchies = Hierarchies::detect()?;
    match record {
        Some(record) => hierarchies.remove(&site.container_cgroup(&record.pod_uid, id))?,
        // Without a record the pod is unknown: every pod's cgroup may have a child of that name.
        None => {
            for pod in hierarchies.children(&PathBuf::from(&site.cgroup)) {
                hierarchies.remove(&site.container_cgroup(&pod, id))?;
            }
        }
    }
    remove_tree(&site.layout.runtime().join(id))?;
    if let Some(record) = record {
        remove_tree(&record.writable_dir.join("upper"))?;
        remove_tree(&record.writable_dir.join("work"))?;
        // Somebody else's files in it keep it.
        let _ = std::fs::remove_dir(&record.writable_dir);
    }
    remove_tree(&site.layout.container(id))
}
