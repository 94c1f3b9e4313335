//! What an agent that restarts has to know of a pod's place in the network:
//! `<run-dir>/pods/<uid>/network.json`, gone with a boot.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use logic::network::local::HostPort;
use model::ids::Uid;
use serde::{Deserialize, Serialize};

use crate::io::net::Mac;
use crate::node::place::{entries, forget, replace};

/// One pod's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// Name of the board's end of its link.
    pub(super) veth: String,
    /// Hardware address of its own end.
    pub(super) mac: Mac,
    /// Ports of the board that lead to it.
    pub(super) host_ports: Vec<HostPort>,
}

impl Record {
    /// Keeps it until the next boot.
    pub(super) fn save(&self, run_dir: &Path, uid: Uid) -> io::Result<()> {
        replace(&path(run_dir, &uid.to_string()), &serde_json::to_vec(self)?)
    }
}

/// Forgets a pod; one that is not there is fine.
pub(super) fn remove(run_dir: &Path, uid: Uid) -> io::Result<()> {
    forget(&path(run_dir, &uid.to_string()))
}

/// All of this boot. The sandbox of a pod whose record cannot be read is
/// made anew when the pod is taken up.
pub(super) fn all(run_dir: &Path) -> io::Result<Vec<(Uid, Record)>> {
    let read = |name: String| {
        let uid = Uid::parse(&name)?;
        let record = serde_json::from_slice(&fs::read(path(run_dir, &name)).ok()?).ok()?;
        Some((uid, record))
    };
    Ok(entries(&run_dir.join("pods"))?.into_iter().filter_map(read).collect())
}

fn path(run_dir: &Path, uid: &str) -> PathBuf {
    run_dir.join("pods").join(uid).join("network.json")
}

#[cfg(test)]
mod tests {
    use model::network::Protocol;

    use super::*;

    #[test]
    fn records_come_back() {
        let run = std::env::temp_dir().join(format!("kumquat-records-{}", std::process::id()));
        let (uid, other) = (Uid::from_random([1; 16]), Uid::from_random([2; 16]));
        let record = Record {
            address: Ipv4Addr::new(10, 42, 0, 7),
            veth: "kq0123456789a".to_owned(),
            mac: [2; 6],
            host_ports: vec![(Protocol::Udp, 53, 1_053, None)],
        };
        assert_eq!(all(&run).expect("no folder is fine"), []);
        record.save(&run, uid).expect("saved");
        fs::create_dir_all(run.join("pods").join(other.to_string())).expect("made");
        fs::write(path(&run, &other.to_string()), b"{").expect("torn");
        assert_eq!(all(&run).expect("read"), [(uid, record)]);
        for _ in 0..2 {
            remove(&run, uid).expect("removed");
        }
        assert_eq!(all(&run).expect("read"), []);
        fs::remove_dir_all(run).expect("removable");
    }
}
