//! Members of a group of masters that look for each other: the service that announces where this one is,
//! and the records of others, which are handed on as they come and not kept.

use std::fmt;
use std::sync::Arc;

use mdns_sd::{ServiceDaemon, ServiceInfo};
use model::leader::CaFingerprint;
use model::member::SignedMember;
use tokio::sync::watch;

use super::driver::SERVICE;

/// Takes a record of this cluster, as it says itself; its signature is not checked yet.
pub type HearMember = Arc<dyn Fn(&SignedMember) + Send + Sync>;

/// What a member of the group announces, and who takes what it hears of others.
#[derive(Clone)]
pub struct Members {
    /// The authority of its cluster: records of others are dropped.
    pub ca: CaFingerprint,
    /// What is announced at the moment, if anything.
    pub own: watch::Receiver<Option<SignedMember>>,
    /// Called for each record of this cluster, also repeatedly for the same.
    pub hear: HearMember,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("own", &self.own).finish_non_exhaustive()
    }
}

/// The same of a board that may be no member.
pub(super) struct Company(pub(super) Option<Members>);

impl Company {
    /// Waits until something else is to be announced; for ever when nobody can say so.
    pub(super) async fn changed(&mut self) {
        if let Some(members) = &mut self.0
            && members.own.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Gets the record announced anew by another daemon.
    pub(super) fn mark_changed(&mut self) {
        if let Some(members) = &mut self.0 {
            members.own.mark_changed();
        }
    }

    /// Announces the own record in place of the instance of that name; gives the new name.
    ///
    /// # Errors
    /// The daemon is gone.
    pub(super) fn announce(
        &mut self,
        daemon: &ServiceDaemon,
        before: Option<String>,
    ) -> Result<Option<String>, mdns_sd::Error> {
        let Some(members) = &mut self.0 else { return Ok(None) };
        let service = members.own.borrow_and_update().as_ref().map(service).transpose()?;
        let name = service.as_ref().map(|service| service.get_fullname().to_owned());
        if let Some(before) = before
            && name.as_ref() != Some(&before)
        {
            daemon.unregister(&before)?;
        }
        if let Some(service) = service {
            daemon.register(service)?;
        }
        Ok(name)
    }

    /// The record of another member, if it is one of this cluster that somebody wants to hear of.
    pub(super) fn read<'a>(
        &self,
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<(SignedMember, HearMember)> {
        let members = self.0.as_ref()?;
        let heard = SignedMember::from_pairs(value).ok()?;
        let own = members.own.borrow();
        let is_own = own.as_ref().is_some_and(|own| own.record().member == heard.record().member);
        let counts = heard.record().ca == members.ca && !is_own;
        counts.then(|| (heard, Arc::clone(&members.hear)))
    }
}

fn service(record: &SignedMember) -> Result<ServiceInfo, mdns_sd::Error> {
    let member = record.record();
    let authority: String = member.ca[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let instance = format!("member-{}-{authority}", member.member);
    let host = format!("{instance}.local.");
    let pairs = record.pairs();
    let (no_address, port) = ("", member.peer_port);
    let service = ServiceInfo::new(SERVICE, &instance, &host, no_address, port, &pairs[..])?;
    let mut service = service.enable_addr_auto();
    service.set_requires_probe(false);
    Ok(service)
}
