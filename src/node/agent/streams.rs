//! Duplex streams that the master opens: which container or pod they mean, and whether there is room.

use std::sync::{Arc, PoisonError};

use logic::pod::container_id;
use model::ids::Uid;
use model::wire::{AttachRequestV1, ExecRequestV1, PortForwardRequestV1, StreamRequestV1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Agent;
use super::pods::PodEntry;
use crate::io::link::{StreamAnswer, StreamInput};
use crate::node::streams::{self, Attach};

impl Agent {
    /// Serves a stream on which the master speaks too.
    pub(super) fn open_duplex(
        &self,
        request: StreamRequestV1,
        answer: StreamAnswer,
        input: StreamInput,
    ) {
        // The refusal is the only thing in the queue.
        let refuse = answer.clone();
        let opened = match request {
            StreamRequestV1::Exec(request) => self.open_exec(request, answer, input),
            StreamRequestV1::Attach(request) => self.open_attach(&request, answer, input),
            StreamRequestV1::PortForward(request) => self.open_forward(request, answer, input),
            StreamRequestV1::Logs(_) | StreamRequestV1::Blob(_) | StreamRequestV1::Upgrade(_) => {
                Err("this stream is answered only".to_owned())
            }
        };
        if let Err(text) = opened {
            drop(refuse.try_send(Err(text)));
        }
    }

    fn open_exec(
        &self,
        request: ExecRequestV1,
        answer: StreamAnswer,
        input: StreamInput,
    ) -> Result<(), String> {
        let (_, id, _) = self.running_container(&request.pod, &request.container)?;
        let permit = room(&self.exec_streams)?;
        let keeper = self.driver.keeper.clone();
        tokio::spawn(async move {
            streams::exec(keeper, id, request, answer, input).await;
            drop(permit);
        });
        Ok(())
    }

    fn open_attach(
        &self,
        request: &AttachRequestV1,
        answer: StreamAnswer,
        input: StreamInput,
    ) -> Result<(), String> {
        let name = &request.container;
        let (entry, id, attempt) = self.running_container(&request.pod, name)?;
        let container = entry.machine.pod().container(name);
        let attach = Attach {
            id: id.clone(),
            log: entry.places.log(name, attempt),
            stdio: request.stdio,
            has_stdin: container.is_some_and(|container| container.stdin),
            has_tty: container.is_some_and(|container| container.tty),
        };
        let permit = room(&self.exec_streams)?;
        let (keeper, running) = (self.driver.keeper.clone(), self.running.clone());
        let lives = move || running.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
        tokio::spawn(async move {
            streams::attach(keeper, attach, lives, answer, input).await;
            drop(permit);
        });
        Ok(())
    }

    fn open_forward(
        &self,
        request: PortForwardRequestV1,
        answer: StreamAnswer,
        input: StreamInput,
    ) -> Result<(), String> {
        let entry = self.pod(&request.pod)?;
        let permit = room(&self.forward_streams)?;
        let own = !entry.machine.pod().spec.host_network;
        let uid = request.pod.to_string();
        let namespace = own.then(|| self.driver.keeper.sandbox_netns(&uid));
        let gone = entry.connections.subscribe();
        tokio::spawn(async move {
            streams::forward(namespace, request.port, gone, answer, input).await;
            drop(permit);
        });
        Ok(())
    }

    fn pod(&self, uid: &Uid) -> Result<&PodEntry, String> {
        self.pods.get(uid).ok_or_else(|| "pod does not exist".to_owned())
    }

    /// The pod, and id and attempt of its running container of this name, as kubelet words it.
    fn running_container(&self, uid: &Uid, name: &str) -> Result<(&PodEntry, String, u32), String> {
        let entry = self.pod(uid)?;
        let mut containers = entry.machine.state().containers.iter();
        let container = containers.find(|container| container.name == *name);
        let container = container.filter(|container| container.is_running());
        let container = container.ok_or_else(|| format!("container not found ({name:?})"))?;
        Ok((entry, container_id(&uid.to_string(), name, container.attempt), container.attempt))
    }
}

fn room(streams: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, String> {
    let full = |_| "too many streams are open on this board".to_owned();
    streams.clone().try_acquire_owned().map_err(full)
}
