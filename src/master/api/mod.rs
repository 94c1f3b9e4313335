//! The API server: the registry's semantics over HTTPS, for kubectl, client-go, kube-rs and Helm.
//!
//! ```text
//! serve (TLS, HTTP/1.1, h2) -> gateway -> route -> auth -> path -> read | watching | write | logs | streams | reviews
//!                                 |          \-> discovery, openapi, health, version
//!                                 \-> to the master that leads, over port 7443
//! ```
//! Everything is driven by the one resource table. In: listeners and a registry. Out: answers equal
//! to those of kube-apiserver 1.36 for the kinds served. Invariants: whatever a peer sends ends at
//! most its own connection; no answer is built whole in memory when it can be streamed; an idle
//! watch costs no work.
//! Deliberately absent until their time: server-side apply, protobuf answers.

mod answer;
mod auth;
mod body;
mod discovery;
mod gateway;
mod health;
mod impersonation;
mod logs;
mod negotiate;
mod openapi;
mod openid;
mod options;
mod path;
mod query;
mod read;
mod render;
mod reviews;
mod route;
mod serve;
mod shares;
mod streams;
mod table;
mod version;
mod watching;
mod write;

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use auth::{BearerTokens, BearerUser, NoTokens, TokenTrouble};
pub use gateway::{Gateway, Sitting};
pub use health::{Check, Health};
pub use logs::{LogAnswer, LogSource, NoLogs, SharedLogs};

use super::audit::Audit;
use super::both::Both;
use super::controllers::Views;
use super::registry::Registry;
use crate::io::clock::Clock;
use crate::io::tls::ApiTls;

/// What the API server is made of.
pub struct ApiOptions {
    /// The objects.
    pub registry: Registry,
    /// Roles, bindings, and what is a board's own.
    pub views: Views,
    /// Judges bearer tokens.
    pub tokens: Arc<dyn BearerTokens>,
    /// Where writes are told of.
    pub audit: Audit,
    /// Whether writes wait for a second board.
    pub both: Both,
    /// Where container logs come from.
    pub logs: SharedLogs,
    /// Judges certificates and ages.
    pub clock: Clock,
    /// What the health paths report.
    pub health: Health,
    /// kumquat's own version, for /version.
    pub version: String,
}

impl fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiOptions").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Starts an API server for as long as this process leads, on the current tokio runtime; the handle
/// ends once `shutdown` says true and the connections have ended (within a deadline). `tls` may be
/// renewed while serving; `listeners` are bound sockets, non-blocking.
pub fn serve(
    options: ApiOptions,
    tls: Arc<ApiTls>,
    listeners: Vec<Arc<TcpListener>>,
    shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let gateway = Gateway::default();
    let sitting = gateway.lead(options, shutdown.clone());
    let serving = gateway.serve(tls, listeners, shutdown);
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "API server failed");
        }
        drop(sitting);
    })
}
