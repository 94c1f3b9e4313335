//! The semantics of the Kubernetes API without HTTP, generic over the one resource table.
//!
//! In: targets, queries and bodies that the HTTP side has decoded, and the plans of controllers.
//! Out: finished answers as bytes, or an [`ApiError`](model::status::ApiError) worded as a real
//! server words it. Every write goes: field check, defaults, admission, strategy (what this request
//! may change), validation, allocation, and then one `propose` of finished bytes with base versions;
//! a write that changes nothing is answered without proposing anything.
//!
//! Invariants: no object is created in a namespace that is being deleted; an address or node port
//! belongs to at most one Service; nothing is kept in memory per object.
//!
//! Deliberately absent: authorisation (the HTTP side asks), managedFields and server-side apply, the
//! check that a pod's ServiceAccount exists (a pod may be created before the controller has made
//! the `default` account of a new namespace; its board waits for the token), and snapshots of the past:
//! the pages after the first of a LIST show objects at least as new as the list's version.

mod accounts;
mod admission;
mod allocate;
mod body;
mod commit;
mod delete;
mod errors;
mod event_names;
mod eviction;
mod metadata;
mod object;
mod patch;
mod pods;
mod read;
mod scale;
mod selection;
mod service;
mod strategy;
mod token;
mod types;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use logic::controller::Event;
use model::status::ApiError;
use tokio::sync::{Mutex, RwLock};

use crate::io::clock::Clock;
use crate::io::store::{NotLeading, Store};

pub use accounts::TokenRequest;
pub use allocate::ServiceRange;
pub use delete::DeleteOptions;
pub use types::{
    CommitError, Deleted, FieldValidation, Guard, ListItem, ListPage, ListQuery, PatchBody,
    PatchKind, Target, UserInfo, VersionMatch, WatchEvent, WatchKind, WatchQuery, WriteOptions,
    Written,
};
pub use watch::Watch;

/// What a cluster fixes at genesis.
#[derive(Clone, Copy, Debug)]
pub struct RegistryOptions {
    /// Where ClusterIPs come from.
    pub service_range: ServiceRange,
    /// Whether pods get a volume with a token: somebody has to issue it.
    pub token_volumes: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let service_range = ServiceRange::new(Ipv4Addr::new(10, 43, 0, 0), 16);
        let service_range = service_range.expect("a /16 is a valid range");
        Self { service_range, token_volumes: false }
    }
}

/// The registry; clones share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    options: RegistryOptions,
    /// Held across the propose of every Service write: addresses are chosen one write at a time.
    /// Such writes run in a task of their own, so a client that goes away cannot cut one in half.
    services: Arc<Mutex<allocate::Allocator>>,
    /// Read-held across the propose of every create in a namespace, write-held while a namespace
    /// begins to terminate: after that no create can slip in.
    namespaces: RwLock<()>,
    event_names: SyncMutex<event_names::EventNames>,
}

impl Registry {
    /// A registry over an open store; reads the Services to know what is allocated.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(
        store: Store,
        clock: Clock,
        options: RegistryOptions,
    ) -> Result<Self, crate::io::store::StoreError> {
        let allocator = allocate::Allocator::from_store(&store, options.service_range)?;
        let inner = Inner {
            store,
            clock,
            options,
            services: Arc::new(Mutex::new(allocator)),
            namespaces: RwLock::new(()),
            event_names: SyncMutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store underneath.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Makes sure that this master still leads, and has applied whatever was answered before: a read
    /// that follows sees the newest state.
    ///
    /// # Errors
    /// 503: it does not lead, or cannot tell.
    pub async fn confirm(&self) -> Result<(), ApiError> {
        let mandate = self.inner.store.reign().borrow().clone();
        let confirmed = match mandate {
            Some(mandate) => mandate.confirm().await,
            None => Err(NotLeading { hint: None }),
        };
        confirmed.map_err(|error| errors::away(&error))
    }

    /// The clock that stamps objects.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Name of the Event object of a happening about the object `name`: the same again while it is
    /// remembered.
    pub fn event_name(&self, name: &str, happening: u64) -> String {
        let names = self.inner.event_names.lock();
        let mut names = names.unwrap_or_else(PoisonError::into_inner);
        Event::object_name(name, names.stamp(happening, self.inner.clock.now()))
    }

    /// What was fixed at genesis.
    pub fn options(&self) -> RegistryOptions {
        self.inner.options
    }
}
