//! Runs a probe or hook once: a command in the container, an HTTP request, a TCP connection, a gRPC
//! health check.
//!
//! All but commands go to the pod's address inside the pod's network namespace, or from the board to
//! the host that the pod names; pods of the host network are on the board anyway. Words are kubelet's
//! (`pkg/probe`). What a hook's server answers does not matter, only that it does.

mod connect;
mod grpc;
mod http;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use logic::pod::ProbeFault;
use logic::pod::spec::{
    Container, ExecAction, Handler, HttpGet, Port, Probe, TcpSocket as TcpSocketAction,
};
use model::limits::PROBE_ANSWER_BYTES_MAX;

use crate::io::keeper::{ExecV1, Keeper};
use connect::Endpoint;

/// What a probe is run against.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) keeper: &'a Keeper,
    /// The container's id.
    pub(crate) id: String,
    /// File of the pod's network namespace; none for the board's own.
    pub(crate) netns: Option<PathBuf>,
    /// The pod's address; none while it has none, then it is asked on its loopback.
    pub(crate) address: Option<IpAddr>,
    pub(crate) container: &'a Container,
}

impl Target<'_> {
    /// Runs a probe; the error is what kubelet writes after "probe failed: ".
    pub(crate) async fn probe(&self, probe: &Probe) -> Result<(), ProbeFault> {
        let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1).into());
        if let Some(exec) = &probe.exec {
            return self.exec(exec, timeout).await;
        }
        let answered = if let Some(request) = &probe.http_get {
            let (at, port) = (request.host.as_str(), &request.port);
            http::probe(request, &self.endpoint(at, port)?, timeout).await
        } else if let Some(socket) = &probe.tcp_socket {
            let at = self.endpoint(&socket.host, &socket.port)?;
            tcp(&at, timeout).await
        } else if let Some(action) = &probe.grpc {
            let at = self.endpoint("", &Port::Number(action.port))?;
            grpc::probe(&action.service, &at, timeout).await
        } else {
            return Err(ProbeFault::Unknown(format!(
                "missing probe handler for {}",
                self.container.name
            )));
        };
        answered.map_err(ProbeFault::Unhealthy)
    }

    /// Runs a hook.
    pub(crate) async fn hook(&self, handler: &Handler, timeout: Duration) -> Result<(), String> {
        let text = |fault| match fault {
            ProbeFault::Unhealthy(text) | ProbeFault::Unknown(text) => text,
        };
        if let Some(exec) = &handler.exec {
            self.exec(exec, timeout).await.map_err(text)
        } else if let Some(request) = &handler.http_get {
            self.http_hook(request, timeout).await.map_err(text)
        } else if let Some(TcpSocketAction { host, port }) = &handler.tcp_socket {
            tcp(&self.endpoint(host, port).map_err(text)?, timeout).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.into()).min(timeout)).await;
            Ok(())
        } else {
            Err("the hook says nothing to do".to_owned())
        }
    }

    async fn http_hook(&self, request: &HttpGet, timeout: Duration) -> Result<(), ProbeFault> {
        let at = self.endpoint(&request.host, &request.port)?;
        http::call(request, &at, timeout).await.map_err(ProbeFault::Unhealthy)
    }

    /// As kubelet: a host that the pod names is reached from the board, not from inside the pod.
    fn endpoint(&self, host: &str, port: &Port) -> Result<Endpoint, ProbeFault> {
        let missing = || ProbeFault::Unknown("couldn't find the probe's port".to_owned());
        let port = port.resolve(self.container).ok_or_else(missing)?;
        let own = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(match host {
            "" => Endpoint { netns: self.netns.clone(), host: own.to_string(), port },
            host => Endpoint { netns: None, host: host.to_owned(), port },
        })
    }

    async fn exec(&self, action: &ExecAction, timeout: Duration) -> Result<(), ProbeFault> {
        let exec = ExecV1 {
            id: self.id.clone(),
            argv: action.command.clone(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            output_bytes_max: PROBE_ANSWER_BYTES_MAX as u32,
            ..ExecV1::default()
        };
        let unknown =
            |error: crate::io::keeper::KeeperError| ProbeFault::Unknown(error.to_string());
        let result = self.keeper.exec(exec).await.map_err(unknown)?;
        if result.timed_out {
            let command = action.command.join(" ");
            let seconds = timeout.as_secs();
            return Err(ProbeFault::Unhealthy(format!(
                "command timed out: {command:?} timed out after {seconds}s"
            )));
        }
        match result.code {
            Some(0) => Ok(()),
            _ => {
                let output = String::from_utf8_lossy(&result.output).into_owned();
                Err(ProbeFault::Unhealthy(output))
            }
        }
    }
}

async fn tcp(at: &Endpoint, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, at.connect()).await {
        Ok(connected) => connected.map(drop).map_err(|error| at.dial_text(&error)),
        Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
    }
}
