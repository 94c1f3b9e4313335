//! Removing every trace of a pod, and of pods that nobody wants any more.

use std::collections::BTreeSet;
use std::io;

use logic::pod::Event;
use model::ids::Uid;

use super::{Driver, Job, blocking};
use crate::io::keeper::ContainerStateV1;
use crate::node::place::{Places, PodPlaces, entries, remove_dir};
use crate::node::volume;

impl Driver {
    pub(super) async fn teardown(&self, job: &Job) -> Event {
        let uid = job.pod.uid().to_string();
        let fault = |message: String| Event::TeardownFailed { message };
        if let Err(message) = self.remove_from_keeper(&uid).await {
            return fault(message);
        }
        let places = job.places.clone();
        match blocking(move || remove_files(&places)).await {
            Some(Ok(())) => Event::TornDown,
            Some(Err(error)) => fault(error.to_string()),
            None => fault("interrupted".to_owned()),
        }
    }

    async fn remove_from_keeper(&self, uid: &str) -> Result<(), String> {
        let states = self.keeper.list().await.map_err(|error| error.to_string())?;
        for state in states.into_iter().filter(|state| state.pod_uid == uid) {
            self.keeper.remove(&state.id).await.map_err(|error| error.to_string())?;
        }
        match Uid::parse(uid) {
            Some(uid) => {
                if let Some(network) = &self.network {
                    network.forget(uid);
                }
                self.remove_sandbox(uid).await
            }
            None => self.keeper.sandbox_remove(uid).await,
        }
        .map_err(|error| error.to_string())
    }
}

fn remove_files(places: &PodPlaces) -> io::Result<()> {
    volume::release(&places.run)?;
    remove_dir(&places.run)?;
    remove_dir(&places.data)?;
    remove_dir(&places.logs)
}

/// Stops and removes containers (`states` has them all) and sandboxes of pods that are not wanted;
/// gives the pods of which something is left.
pub(in crate::node) async fn sweep_keeper(
    driver: &Driver,
    states: &[ContainerStateV1],
    wanted: &BTreeSet<String>,
) -> Vec<String> {
    let mut unwanted: BTreeSet<String> = states.iter().map(|state| state.pod_uid.clone()).collect();
    match driver.keeper.sandboxes().await {
        Ok(uids) => unwanted.extend(uids),
        Err(error) => tracing::warn!(%error, "sandboxes cannot be listed"),
    }
    let mut left = Vec::new();
    for uid in unwanted.difference(wanted) {
        match driver.remove_from_keeper(uid).await {
            Ok(()) => tracing::info!(pod = uid, "removed what was left of an unknown pod"),
            Err(error) => {
                tracing::warn!(pod = uid, error, "what is left of a pod is not removed");
                left.push(uid.clone());
            }
        }
    }
    left
}

/// Removes files of pods that are not wanted, and writable layers that a reboot left.
pub(in crate::node) fn remove_leftovers(
    places: &Places,
    wanted: &BTreeSet<String>,
    rebooted: bool,
) -> io::Result<()> {
    for uid in places.known_pods()? {
        let (data, run) =
            (places.data_dir.join("pods").join(&uid), places.run_dir.join("pods").join(&uid));
        if !wanted.contains(&uid) {
            volume::release(&run)?;
            remove_dir(&run)?;
            remove_dir(&data)?;
        } else if rebooted {
            remove_dir(&data.join("layers"))?;
        }
    }
    let logs = places.data_dir.join("logs");
    for name in entries(&logs)? {
        let known = name.rsplit('_').next().is_some_and(|uid| wanted.contains(uid));
        if !known {
            remove_dir(&logs.join(name))?;
        }
    }
    Ok(())
}
