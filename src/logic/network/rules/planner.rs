//! Keeps the rules of a board up to date and tells what changed, at the cost of what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::network::{NetService, NetState};

use super::super::local::LocalPods;
use super::frontend::{self, Claims, Door};
use super::{Backends, Choice, Frontend, Program, Rules, Site};

const DNS: &str = "!dns";
const HOST_PORTS: &str = "~host-ports";

/// A frontend before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub frontend: Frontend,
    /// `None`: it was not there.
    pub before: Option<Arc<Backends>>,
    /// `None`: it is gone.
    pub after: Option<Arc<Backends>>,
}

/// What an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the order of frontends.
    pub services: Vec<Change>,
    /// Chains and sets before and after; `None` when they are the same.
    pub program: Option<(Program, Program)>,
    /// What is refused from this update on, and whom: kumquat's own ports, addresses that are the
    /// cluster's to give.
    pub refused: Vec<(Arc<str>, Frontend)>,
}

impl Changes {
    /// Whether nothing of the rules changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.program.is_none()
    }
}

/// Who is found at a frontend, and who would be if that one were not.
type Claimants = BTreeMap<(Door, Arc<str>), Arc<Backends>>;

/// The rules of one board and what they were made from.
#[derive(Clone, Debug)]
pub struct Planner {
    site: Site,
    state: Arc<NetState>,
    local: Arc<LocalPods>,
    boards: BTreeSet<Ipv4Addr>,
    claims: BTreeMap<Frontend, Claimants>,
    /// How many frontends make each choice.
    choices: BTreeMap<Choice, usize>,
    program: Program,
}

impl Planner {
    /// For a board that knows nothing yet.
    pub fn new(site: Site) -> Self {
        let mut planner = Self {
            state: Arc::default(),
            local: Arc::default(),
            boards: BTreeSet::new(),
            claims: BTreeMap::new(),
            choices: BTreeMap::new(),
            program: Program::default(),
            site,
        };
        let mut touched = Touched::default();
        let dns = frontend::of_dns(&planner.site);
        planner.replace(&DNS.into(), Claims::default(), dns, &mut touched);
        planner.count(touched);
        planner.program = planner.program_now();
        planner
    }

    /// What it plans for.
    pub fn site(&self) -> &Site {
        &self.site
    }

    pub(super) fn state(&self) -> &NetState {
        &self.state
    }

    /// Where connections to a frontend lead.
    pub fn backends(&self, frontend: &Frontend) -> Option<&Arc<Backends>> {
        self.claims.get(frontend)?.first_key_value().map(|(_, backends)| backends)
    }

    /// Everything, as it is after the last update.
    pub fn rules(&self) -> Rules {
        let first = |(frontend, claims): (&Frontend, &Claimants)| {
            claims.first_key_value().map(|(_, backends)| (*frontend, Arc::clone(backends)))
        };
        Rules {
            services: self.claims.iter().filter_map(first).collect(),
            program: self.program.clone(),
        }
    }

    /// Takes what the board knows and tells what that changes.
    pub fn update(&mut self, state: Arc<NetState>, local: Arc<LocalPods>) -> Changes {
        let mut touched = Touched::default();
        let boards: BTreeSet<Ipv4Addr> =
            state.boards.values().filter_map(|board| board.address).collect();
        let old_boards = std::mem::replace(&mut self.boards, boards);
        let moved = old_boards != self.boards;
        let before = std::mem::replace(&mut self.state, Arc::clone(&state));
        let (mut guards, mut refused) = (false, Vec::new());
        for (key, old, new) in differences(&before, &state, moved) {
            guards |= [old, new].into_iter().flatten().any(|s| !s.source_ranges.is_empty());
            let claims = |service: Option<&NetService>, boards: &BTreeSet<Ipv4Addr>| {
                service.map(|service| frontend::of_service(service, &self.site, boards))
            };
            let (old, new) = (claims(old, &old_boards), claims(new, &self.boards));
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            refused.extend(new.refused.difference(&old.refused).cloned());
            self.replace(key, old, new, &mut touched);
        }
        let moved_in = *self.local != *local;
        if moved || moved_in {
            let claims = |local: &LocalPods, boards: &BTreeSet<Ipv4Addr>| {
                frontend::of_host_ports(local, &self.site, boards)
            };
            let (old, new) = (claims(&self.local, &old_boards), claims(&local, &self.boards));
            refused.extend(new.refused.difference(&old.refused).cloned());
            self.replace(&HOST_PORTS.into(), old, new, &mut touched);
            self.local = local;
        }
        let (services, choices) = self.count(touched);
        let awaited = state.policies.values().any(|policy| !policy.starting.is_empty());
        let policies = before.policies != state.policies || (moved_in && awaited);
        let mut program = None;
        if guards || choices || policies || moved {
            let now = self.program_now();
            if now != self.program {
                let before = std::mem::replace(&mut self.program, now);
                program = Some((before, self.program.clone()));
            }
        }
        Changes { services, program, refused }
    }

    fn program_now(&self) -> Program {
        let known = (&*self.state, &self.boards);
        Program::new(&self.site, known, &self.local, self.choices.keys().copied())
    }

    /// Replaces what somebody asks for, and notes what was at each of the frontends before.
    fn replace(&mut self, owner: &Arc<str>, old: Claims, new: Claims, touched: &mut Touched) {
        for (frontend, door, _) in old.found {
            self.touch(frontend, touched);
            if let Some(claimants) = self.claims.get_mut(&frontend) {
                claimants.remove(&(door, Arc::clone(owner)));
                if claimants.is_empty() {
                    self.claims.remove(&frontend);
                }
            }
        }
        for (frontend, door, backends) in new.found {
            self.touch(frontend, touched);
            let claimants = self.claims.entry(frontend).or_default();
            claimants.insert((door, Arc::clone(owner)), Arc::new(backends));
        }
    }

    fn touch(&self, frontend: Frontend, touched: &mut Touched) {
        touched.entry(frontend).or_insert_with(|| self.backends(&frontend).cloned());
    }

    /// Counts choices anew where something changed; tells what changed and whether other choices are
    /// made than before.
    fn count(&mut self, touched: Touched) -> (Vec<Change>, bool) {
        let mut changes = Vec::new();
        let mut counts: BTreeMap<Choice, isize> = BTreeMap::new();
        for (frontend, before) in touched {
            let after = self.backends(&frontend).cloned();
            if before == after {
                continue;
            }
            for (backends, step) in [(&before, -1), (&after, 1)] {
                let Some(backends) = backends else { continue };
                for choice in [backends.inside, backends.outside].into_iter().flatten() {
                    *counts.entry(choice).or_default() += step;
                }
            }
            changes.push(Change { frontend, before, after });
        }
        let mut other = false;
        for (choice, step) in counts {
            let count = self.choices.get(&choice).copied().unwrap_or_default();
            let now = count.saturating_add_signed(step);
            other |= (count == 0) != (now == 0);
            match now {
                0 => self.choices.remove(&choice),
                _ => self.choices.insert(choice, now),
            };
        }
        (changes, other)
    }
}

/// What was at frontends before they were touched.
type Touched = BTreeMap<Frontend, Option<Arc<Backends>>>;

/// The services that are not the same in two states; with `all`, every one.
fn differences<'a>(
    before: &'a NetState,
    after: &'a NetState,
    all: bool,
) -> Vec<(&'a Arc<str>, Option<&'a NetService>, Option<&'a NetService>)> {
    let mut found = Vec::new();
    let mut old = before.services.iter().peekable();
    let mut new = after.services.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        let same = match (old, new) {
            (Some((_, old)), Some((_, new))) => Arc::ptr_eq(old, new) || old == new,
            _ => false,
        };
        if let (Some((key, _)), true) = (old.or(new), all || !same) {
            found.push((key, old.map(|(_, s)| &**s), new.map(|(_, s)| &**s)));
        }
    }
}
