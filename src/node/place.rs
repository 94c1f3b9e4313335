//! Where the files of a board's pods lie.
//!
//! ```text
//! <data-dir>/node/{key,desired}                 the desired set
//! <data-dir>/pods/<uid>/volumes/<name>          emptyDir on the card; survives a reboot
//! <data-dir>/pods/<uid>/layers/<id>             writable layers (the keeper's)
//! <data-dir>/pods/<uid>/state.json              how a pod that is not to run again ended
//! <data-dir>/logs/<ns>_<name>_<uid>/<container>/<start>.log
//! <run-dir>/boot                                 random number of this boot
//! <run-dir>/pods/<uid>/state.json               the pod's machine, for an agent that restarts
//! <run-dir>/pods/<uid>/etc/{hosts,hostname,resolv.conf}
//! <run-dir>/pods/<uid>/volumes/<name>           everything that comes from the API, and memory
//! <run-dir>/pods/<uid>/termination/<id>
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use logic::pod::Pod;

/// The roots of a board's files.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// The directories of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodPlaces {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Places {
    pub(crate) fn desired(&self) -> PathBuf {
        self.data_dir.join("node")
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.run_dir.join("boot")
    }

    /// The directories of a pod. Its words were checked by the API; a uid, names of Kubernetes and
    /// nothing else become part of a path.
    pub(crate) fn pod(&self, pod: &Pod) -> PodPlaces {
        let uid = pod.uid().to_string();
        let metadata = &pod.metadata;
        let logs =
            format!("{}_{}_{uid}", file_name(&metadata.namespace), file_name(&metadata.name));
        PodPlaces {
            data: self.data_dir.join("pods").join(&uid),
            run: self.run_dir.join("pods").join(&uid),
            logs: self.data_dir.join("logs").join(logs),
        }
    }

    /// Pods that left something, by the uid that names their directories.
    pub(crate) fn known_pods(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for root in [self.data_dir.join("pods"), self.run_dir.join("pods")] {
            uids.extend(entries(&root)?);
        }
        uids.sort();
        uids.dedup();
        Ok(uids)
    }
}

impl PodPlaces {
    pub(crate) fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(file_name(container)).join(format!("{attempt}.log"))
    }

    pub(crate) fn writable(&self, id: &str) -> PathBuf {
        self.data.join("layers").join(id)
    }

    pub(crate) fn termination(&self, id: &str) -> PathBuf {
        self.run.join("termination").join(id)
    }

    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.run.join("etc").join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.run.join("state.json")
    }

    pub(crate) fn durable_state(&self) -> PathBuf {
        self.data.join("state.json")
    }

    /// The last start of each container that left a log.
    pub(crate) fn logged_attempts(&self) -> io::Result<Vec<(String, u32)>> {
        let mut attempts = Vec::new();
        for container in entries(&self.logs)? {
            let newest = entries(&self.logs.join(&container))?
                .iter()
                .filter_map(|name| name.split('.').next()?.parse::<u32>().ok())
                .max();
            attempts.extend(newest.map(|attempt| (container, attempt)));
        }
        Ok(attempts)
    }
}

/// Names in a directory; none when it is not there.
pub(crate) fn entries(dir: &Path) -> io::Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    listing.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// A word as a single path component, whatever it holds.
pub(crate) fn file_name(word: &str) -> String {
    let plain = |c: char| if c == '/' || c == '\0' { '_' } else { c };
    let name: String = word.chars().map(plain).collect();
    if name.trim_matches('.').is_empty() { format!("_{name}") } else { name }
}

/// Removes a directory with everything in it; not being there is fine.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file; not being there is fine.
pub(crate) fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole, without making it durable.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_one_component() {
        for (word, expected) in [("a", "a"), ("../x", ".._x"), ("..", "_.."), ("", "_")] {
            assert_eq!(file_name(word), expected);
        }
    }
}
