//! How a board without an identity gets one: it joins with a token, or founds when it hears nobody.

use std::time::Duration;

use anyhow::{Result, bail};
use model::leader::SignedRecord;

use super::decide::{self, Start};
use crate::app::config::Config;
use crate::app::dirs::Dirs;
use crate::app::identity::Identity;
use crate::io::discovery::{self, Discovery};

/// How long a board listens for a cluster before it founds one.
const LISTEN: Duration = Duration::from_secs(3);
/// Makes the board what `start` says, durably, and gives what it is.
///
/// # Errors
/// A cluster that must be joined with a token, a token that is refused, or the disk.
///
/// # Cancel safety
/// What was not finished is begun anew by the next start; a token is not used up by it.
pub(super) async fn arrive(dirs: &Dirs, config: &Config, start: Start) -> Result<Identity> {
    match start {
        Start::ComeBack(identity) => Ok(identity),
        Start::Found => {
            let identity = Identity::found(config)?;
            decide::may_found(&listen(config).await, config)?;
            identity.save(dirs)?;
            Ok(identity)
        }
        Start::Join(_) => bail!("--token is for joining, which comes with version 0.1.0"),
    }
}

/// What is heard on the link within a while; at once nothing, where nothing can be.
async fn listen(config: &Config) -> Vec<SignedRecord> {
    let named = config.interface.clone();
    if !discovery::usable_interfaces(named.as_deref()) {
        return Vec::new();
    }
    let seconds = LISTEN.as_secs();
    tracing::info!(seconds, "listening for a cluster on this network");
    let options = discovery::Options { interface: named, ..Default::default() };
    let discovery = Discovery::start(options);
    let mut heard = discovery.heard();
    let found = |records: &Vec<SignedRecord>| decide::may_found(records, config).is_err();
    let waited = tokio::time::timeout(LISTEN, heard.wait_for(found)).await;
    let records = waited.map_or_else(|_| Vec::new(), |seen| seen.map_or(Vec::new(), |r| r.clone()));
    discovery.stop().await;
    records
}
