//! Boards that want to found a cluster with one token: their records, as far as they were heard, and
//! the service that announces one's own.

use mdns_sd::{ServiceDaemon, ServiceInfo};
use model::genesis::GenesisRecord;
use model::limits::GENESIS_PEERS_MAX;
use tokio::sync::watch;

use super::driver::SERVICE;

/// What one board announces, and what it hears of others with the same token. A board that announces
/// nothing keeps nothing.
#[derive(Debug)]
pub(super) struct Fresh {
    own: watch::Receiver<Option<GenesisRecord>>,
    /// By the instance that carries them, the longest known first.
    heard: Vec<(String, GenesisRecord)>,
    publish: watch::Sender<Vec<GenesisRecord>>,
}

impl Fresh {
    pub(super) fn new(
        own: watch::Receiver<Option<GenesisRecord>>,
        publish: watch::Sender<Vec<GenesisRecord>>,
    ) -> Self {
        Self { own, heard: Vec::new(), publish }
    }

    /// Waits until another record is to be announced, or none.
    pub(super) async fn changed(&mut self) -> bool {
        self.own.changed().await.is_ok()
    }

    /// Gets the record announced anew by another daemon.
    pub(super) fn mark_changed(&mut self) {
        self.own.mark_changed();
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
        let record = self.own.borrow_and_update().clone();
        let service = record.as_ref().map(service).transpose()?;
        let name = service.as_ref().map(|service| service.get_fullname().to_owned());
        if let Some(before) = before
            && name.as_ref() != Some(&before)
        {
            daemon.unregister(&before)?;
        }
        if let Some(service) = service {
            daemon.register(service)?;
        }
        if record.is_none() {
            self.heard.clear();
            self.publish.send_replace(Vec::new());
        }
        Ok(name)
    }

    /// Takes what a record says; whether it is one of a board without a cluster at all.
    pub(super) fn hear<'a>(
        &mut self,
        instance: &str,
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        let Some(record) = GenesisRecord::from_pairs(value) else { return false };
        let is_company = {
            let own = self.own.borrow();
            own.as_ref().is_some_and(|own| own.token == record.token && own.id != record.id)
        };
        if !is_company || self.heard.iter().any(|(known, old)| known == instance && *old == record)
        {
            return true;
        }
        self.heard.retain(|(known, old)| known != instance && old.id != record.id);
        if self.heard.len() == GENESIS_PEERS_MAX {
            self.heard.remove(0);
        }
        self.heard.push((instance.to_owned(), record));
        self.tell();
        true
    }

    /// The instance said goodbye, or was silent for too long.
    pub(super) fn remove(&mut self, instance: &str) {
        let before = self.heard.len();
        self.heard.retain(|(known, _)| known != instance);
        if self.heard.len() != before {
            self.tell();
        }
    }

    fn tell(&self) {
        self.publish.send_replace(self.heard.iter().map(|(_, record)| record.clone()).collect());
    }
}

fn service(record: &GenesisRecord) -> Result<ServiceInfo, mdns_sd::Error> {
    let id: String = record.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let instance = format!("genesis-{id}");
    let host = format!("{instance}.local.");
    let pairs = record.pairs();
    let (no_address, port) = ("", record.peer_port);
    let service = ServiceInfo::new(SERVICE, &instance, &host, no_address, port, &pairs[..])?;
    let mut service = service.enable_addr_auto();
    service.set_requires_probe(false);
    Ok(service)
}

#[cfg(test)]
mod tests {
    use model::token::TokenId;

    use super::*;

    fn record(token: u8, id: u8) -> GenesisRecord {
        GenesisRecord {
            token: TokenId([token; 5]),
            id: [id; 16],
            expect: 3,
            addresses: vec![[192, 0, 2, id].into()],
            peer_port: 7443,
        }
    }

    fn hear(fresh: &mut Fresh, instance: &str, record: &GenesisRecord) -> bool {
        let pairs = record.pairs();
        fresh.hear(instance, |key| {
            pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str())
        })
    }

    #[test]
    fn only_company_is_kept_and_never_too_much() {
        let (own, to_announce) = watch::channel(None);
        let (publish, heard) = watch::channel(Vec::new());
        let mut fresh = Fresh::new(to_announce, publish);
        assert!(hear(&mut fresh, "a", &record(1, 1)), "it is such a record");
        assert!(!fresh.hear("a", |_| None), "it is none");
        assert_eq!(*heard.borrow(), [], "whoever announces nothing keeps nothing");
        own.send_replace(Some(record(1, 9)));
        for (instance, said) in
            [("a", record(1, 1)), ("b", record(2, 2)), ("own", record(1, 9)), ("c", record(1, 3))]
        {
            hear(&mut fresh, instance, &said);
        }
        assert_eq!(*heard.borrow(), [record(1, 1), record(1, 3)]);
        let moved = GenesisRecord { peer_port: 7444, ..record(1, 1) };
        hear(&mut fresh, "a", &moved);
        fresh.remove("c");
        assert_eq!(*heard.borrow(), [moved]);
        for id in 10..=255 {
            hear(&mut fresh, &format!("flood-{id}"), &record(1, id));
        }
        assert_eq!(heard.borrow().len(), GENESIS_PEERS_MAX);
    }
}
