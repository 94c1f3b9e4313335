//! Many addresses at once, so that those where nobody is, or somebody who takes his time, hold up no other.

use std::net::SocketAddr;
use std::vec::IntoIter;

use tokio::task::JoinSet;

use super::JoinError;

/// Addresses that are called at once.
const CALLS_MAX: usize = 32;

/// Calls under way; what is left ends with the value.
pub(in crate::app) struct Calls<T, C> {
    left: IntoIter<SocketAddr>,
    call: C,
    running: JoinSet<(SocketAddr, Result<T, JoinError>)>,
}

impl<T, C, F> Calls<T, C>
where
    T: Send + 'static,
    C: Fn(SocketAddr) -> F,
    F: Future<Output = Result<T, JoinError>> + Send + 'static,
{
    /// Calls all of them with `call`, the first ones first.
    pub(in crate::app) fn new(addresses: Vec<SocketAddr>, call: C) -> Self {
        Self { left: addresses.into_iter(), call, running: JoinSet::new() }
    }

    /// Whoever answers next, or does not; none when all have.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub(in crate::app) async fn next(&mut self) -> Option<(SocketAddr, Result<T, JoinError>)> {
        loop {
            while self.running.len() < CALLS_MAX
                && let Some(address) = self.left.next()
            {
                let calling = (self.call)(address);
                self.running.spawn(async move { (address, calling.await) });
            }
            match self.running.join_next().await? {
                Ok(answered) => return Some(answered),
                // It crashed: others may do better.
                Err(error) => tracing::debug!(%error, "a call to a master broke off"),
            }
        }
    }
}
