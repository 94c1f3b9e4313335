//! Which connections and clients that the kernel remembers lead to a target that is gone.
//!
//! UDP has no end: whoever goes on sending to a service is led to the same target for ever, unless the
//! kernel forgets it. A connection of TCP that a lost board never answered is remembered for two minutes:
//! the next one from the same port would be led there too.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use model::network::Protocol;

use super::{Backends, Change, Changes, Frontend, Planner, Target};

/// What the kernel remembers of a connection: of TCP, one that nobody has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the client sends to.
    pub to: Target,
    /// Who answers.
    pub answered_by: Target,
}

impl Backends {
    fn has(&self, target: &Target) -> bool {
        self.endpoints.contains(target) || self.local.contains(target)
    }
}

impl Changes {
    /// The frontends with affinity that lost a target.
    pub fn unkept(&self) -> BTreeSet<Frontend> {
        let lost = |change: &&Change| {
            let Some(before) = &change.before else { return false };
            let sticky = before.inside.is_some_and(|choice| choice.sticky_seconds > 0);
            sticky && !stay(before, change.after.as_deref())
        };
        self.services.iter().filter(lost).map(|change| change.frontend).collect()
    }

    /// The frontends of UDP that lost a target, or that connections may have passed by before.
    pub fn doubtful(&self) -> BTreeSet<Frontend> {
        let udp = self.services.iter().filter(|change| change.frontend.protocol == Protocol::Udp);
        let doubtful = udp.filter(|change| {
            let Some(before) = &change.before else { return true };
            let after = change.after.as_deref();
            !stay(before, after) || (before.endpoints.is_empty() && after.is_some())
        });
        doubtful.map(|change| change.frontend).collect()
    }
}

impl Planner {
    /// The frontends of TCP that lost a target on a board that is not heard.
    pub fn cut_off(&self, changes: &Changes) -> BTreeSet<Frontend> {
        let tcp = changes.services.iter().filter(|it| it.frontend.protocol == Protocol::Tcp);
        let cut_off = tcp.filter(|change| {
            let targets = change.before.iter().flat_map(|it| it.endpoints.iter().chain(&it.local));
            let mut lost = targets.filter(|target| self.is_lost(target));
            lost.any(|target| change.after.as_ref().is_none_or(|after| !after.has(target)))
        });
        cut_off.map(|change| change.frontend).collect()
    }

    /// Whether a target is on a board that is not heard. On any other, who is about to go still answers.
    fn is_lost(&self, (address, _): &Target) -> bool {
        let mut silent = self.state().boards.values().filter(|board| !board.ready);
        silent.any(|board| {
            board.address == Some(*address)
                || board.pods.is_some_and(|pods| pods.contains(*address))
        })
    }

    /// Whether a connection leads past the targets that its frontend, one of `doubtful`, has.
    pub fn is_stale(&self, doubtful: &BTreeSet<Frontend>, flow: &Flow) -> bool {
        if flow.protocol == Protocol::Tcp && !self.is_lost(&flow.answered_by) {
            return false;
        }
        let (address, port) = flow.to;
        let at = |address| Frontend { address, protocol: flow.protocol, port };
        let any = at(Ipv4Addr::UNSPECIFIED);
        let frontend = if doubtful.contains(&at(address)) {
            at(address)
        } else if doubtful.contains(&any) && flow.answered_by != flow.to {
            // What is not translated is none of a node port's.
            any
        } else {
            return false;
        };
        !self.leads_to(&frontend, &flow.answered_by)
    }

    /// The same for all frontends, when all rules are made anew: connections may have passed by
    /// meanwhile. A translated one to an address of services where nothing is found is of a service that
    /// went unseen.
    pub fn is_astray(&self, flow: &Flow) -> bool {
        if flow.protocol == Protocol::Tcp && !self.is_lost(&flow.answered_by) {
            return false;
        }
        let (address, port) = flow.to;
        let at = |address| Frontend { address, protocol: flow.protocol, port };
        let is_translated = flow.answered_by != flow.to;
        let found = [(address, true), (Ipv4Addr::UNSPECIFIED, is_translated)];
        let mut found = found.into_iter().filter(|(_, counts)| *counts).map(|(it, _)| at(it));
        match found.find(|frontend| self.backends(frontend).is_some()) {
            Some(frontend) => !self.leads_to(&frontend, &flow.answered_by),
            None => is_translated && self.site().service_range.contains(address),
        }
    }

    /// Whether a frontend has a target.
    pub fn leads_to(&self, frontend: &Frontend, target: &Target) -> bool {
        self.backends(frontend).is_some_and(|backends| backends.has(target))
    }
}

/// Whether all targets are there afterwards too.
fn stay(before: &Backends, after: Option<&Backends>) -> bool {
    let mut targets = before.endpoints.iter().chain(&before.local);
    targets.all(|target| after.is_some_and(|after| after.has(target)))
}
