//! The table `inet kumquat`: made whole, or changed where it differs, always in one step.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use logic::network::rules::{
    Backends, Chain, Changes, Frontend, Hook, Program, Rules, Set, Target, names,
};

use super::expression::Expressions;
use super::message::{Buffer, NFPROTO_INET, NFTABLES, Reader};
use super::rule;
use super::set::{Element, SERVICE_SETS, Shape, Value, client_of, of_service, of_set, pieces};
use super::socket::Socket;

const NEWTABLE: (u16, u16) = (NFTABLES, 0);
const GETTABLE: (u16, u16) = (NFTABLES, 1);
const DELTABLE: (u16, u16) = (NFTABLES, 2);
const NEWCHAIN: (u16, u16) = (NFTABLES, 3);
const DELCHAIN: (u16, u16) = (NFTABLES, 5);
const NEWRULE: (u16, u16) = (NFTABLES, 6);
const DELRULE: (u16, u16) = (NFTABLES, 8);
const NEWSET: (u16, u16) = (NFTABLES, 9);
const DELSET: (u16, u16) = (NFTABLES, 11);
const NEWSETELEM: (u16, u16) = (NFTABLES, 12);
const GETSETELEM: (u16, u16) = (NFTABLES, 13);
const DELSETELEM: (u16, u16) = (NFTABLES, 14);
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NFTA_TABLE_HANDLE: u16 = 4;
/// Priorities of netfilter(9): where iptables has the same hooks.
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_SOURCE: i32 = 100;
const PRIORITY_FILTER: i32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// The name of the table.
pub const TABLE: &str = "kumquat";

/// Elements by the set that they belong to.
type Elements = BTreeMap<Arc<str>, Vec<Element>>;

/// A change of the table under construction.
pub(super) struct Batch {
    buffer: Buffer,
    sets: u32,
}

impl Batch {
    fn new() -> Self {
        Self { buffer: Buffer::batch(), sets: 0 }
    }

    fn request(
        &mut self,
        kind: (u16, u16),
        flags: u16,
        build: impl FnOnce(&mut super::message::Attributes<'_>),
    ) {
        self.buffer.request(kind, NFPROTO_INET, flags, |to| {
            to.text(1, TABLE);
            build(to);
        });
    }

    fn add_table(&mut self) {
        self.request(NEWTABLE, NLM_F_CREATE, |to| to.u32(2, 0));
    }

    fn delete_table(&mut self) {
        self.request(DELTABLE, 0, |_| ());
    }

    fn add_chain(&mut self, name: &str, chain: &Chain) {
        self.request(NEWCHAIN, NLM_F_CREATE, |to| {
            to.text(3, name);
            let Some(hook) = chain.hook else { return };
            // `enum nf_inet_hooks`.
            let (kind, number, priority) = match hook {
                Hook::NatPrerouting => ("nat", 0, PRIORITY_DESTINATION),
                Hook::NatOutput => ("nat", 3, PRIORITY_DESTINATION),
                Hook::NatPostrouting => ("nat", 4, PRIORITY_SOURCE),
                Hook::FilterInput => ("filter", 1, PRIORITY_FILTER),
                Hook::FilterForward => ("filter", 2, PRIORITY_FILTER),
                Hook::FilterOutput => ("filter", 3, PRIORITY_FILTER),
                Hook::FilterPostrouting => ("filter", 4, PRIORITY_FILTER),
            };
            to.nested(4, |hook| {
                hook.u32(1, number);
                hook.u32(2, priority.cast_unsigned());
            });
            to.u32(5, POLICY_ACCEPT);
            to.text(7, kind);
        });
    }

    fn add_set(&mut self, name: &str, shape: &Shape) {
        self.sets += 1;
        let id = self.sets;
        self.request(NEWSET, NLM_F_CREATE, |to| {
            to.text(2, name);
            shape.write(id, to);
        });
    }

    fn add_rules(&mut self, name: &str, chain: &Chain) {
        for rule in &chain.rules {
            self.request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |to| {
                to.text(2, name);
                to.nested(4, |list| rule::write(rule, &mut Expressions(list)));
            });
        }
    }

    fn delete_rules(&mut self, chain: &str) {
        self.request(DELRULE, 0, |to| to.text(2, chain));
    }

    fn elements(&mut self, elements: &Elements, add: bool) {
        let (kind, flags) = if add { (NEWSETELEM, NLM_F_CREATE) } else { (DELSETELEM, 0) };
        for (set, elements) in elements {
            for piece in pieces(elements) {
                self.request(kind, flags, |to| {
                    to.text(2, set);
                    to.nested(3, |list| {
                        for element in piece {
                            list.nested(1, |to| element.write(add, to));
                        }
                    });
                });
            }
        }
    }

    /// Everything, whatever was there before.
    fn whole(rules: &Rules, clients: Vec<Element>) -> Self {
        let mut batch = Self::new();
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        let mut elements = Elements::new();
        for (name, shape) in &SERVICE_SETS {
            batch.add_set(name, shape);
        }
        for (name, set) in &rules.program.sets {
            batch.add_set(name, &Shape::of(set));
            elements.insert(Arc::clone(name), all_of(set));
        }
        for (name, chain) in &rules.program.chains {
            batch.add_chain(name, chain);
        }
        let mut services = Services::default();
        for (frontend, backends) in &rules.services {
            services.add(frontend, backends);
        }
        services.move_to(&mut elements);
        elements.insert(names::AFFINITY.into(), clients);
        for (name, chain) in &rules.program.chains {
            batch.add_rules(name, chain);
        }
        batch.elements(&elements, true);
        batch
    }

    /// What differs. New things come first, then old elements go, new ones come, and old things go last:
    /// nothing ever names what is not there.
    fn difference(changes: &Changes) -> Self {
        let mut batch = Self::new();
        let none = Program::default();
        let (before, after) = changes.program.as_ref().map_or((&none, &none), |(b, a)| (b, a));
        let other_kind =
            |name: &Arc<str>, set: &Set| before.sets.get(name).is_none_or(|b| b.kind != set.kind);
        for (name, set) in after.sets.iter().filter(|(name, set)| other_kind(name, set)) {
            batch.add_set(name, &Shape::of(set));
        }
        let new = |name: &Arc<str>| !before.chains.contains_key(name);
        for (name, chain) in after.chains.iter().filter(|(name, _)| new(name)) {
            batch.add_chain(name, chain);
        }
        let gone = |name: &Arc<str>| !after.chains.contains_key(name);
        for (name, chain) in &before.chains {
            if after.chains.get(name) != Some(chain) {
                batch.delete_rules(name);
            }
        }
        let (mut removed, mut added) = differing(&before.sets, &after.sets);
        let (mut old, mut fresh) = (Services::default(), Services::default());
        for change in &changes.services {
            let (before, after) = (&change.before, &change.after);
            service_difference(&change.frontend, before.as_deref(), after.as_deref(), |add, e| {
                if add { fresh.push(e) } else { old.push(e) }
            });
        }
        old.move_to(&mut removed);
        fresh.move_to(&mut added);
        batch.elements(&removed, false);
        batch.elements(&added, true);
        for (name, chain) in &after.chains {
            if before.chains.get(name) != Some(chain) {
                batch.add_rules(name, chain);
            }
        }
        for name in before.chains.keys().filter(|name| gone(name)) {
            batch.request(DELCHAIN, 0, |to| to.text(3, name));
        }
        for name in before.sets.keys().filter(|name| !after.sets.contains_key(*name)) {
            batch.request(DELSET, 0, |to| to.text(2, name));
        }
        batch
    }

    pub(super) fn commit(self, socket: &Socket) -> io::Result<()> {
        socket.commit(self.buffer)
    }
}

/// Elements of services by their sets.
#[derive(Default)]
struct Services(Elements);

impl Services {
    fn push(&mut self, (set, element): (Arc<str>, Element)) {
        self.0.entry(set).or_default().push(element);
    }

    fn add(&mut self, frontend: &Frontend, backends: &Backends) {
        of_service(frontend, backends).into_iter().for_each(|element| self.push(element));
    }

    /// Puts them with those of the program; sets of frontends are named in both.
    fn move_to(self, elements: &mut Elements) {
        for (set, mut own) in self.0 {
            elements.entry(set).or_default().append(&mut own);
        }
    }
}

/// Tells of each element that is to be removed, and of each that is to be added (`true`).
fn service_difference(
    frontend: &Frontend,
    before: Option<&Backends>,
    after: Option<&Backends>,
    mut tell: impl FnMut(bool, (Arc<str>, Element)),
) {
    let of = |backends: Option<&Backends>| {
        backends.map(|backends| of_service(frontend, backends)).unwrap_or_default()
    };
    let by_key = |elements: Vec<(Arc<str>, Element)>| -> BTreeMap<_, _> {
        elements.into_iter().map(|(set, element)| ((set, element.key.clone()), element)).collect()
    };
    let (before, after) = (by_key(of(before)), by_key(of(after)));
    for ((set, key), element) in &before {
        if after.get(&(Arc::clone(set), key.clone())) != Some(element) {
            tell(false, (Arc::clone(set), element.clone()));
        }
    }
    for ((set, key), element) in &after {
        if before.get(&(Arc::clone(set), key.clone())) != Some(element) {
            tell(true, (Arc::clone(set), element.clone()));
        }
    }
}

fn all_of(set: &Set) -> Vec<Element> {
    let of = |(key, verdict): (&_, &Option<_>)| of_set(key, verdict.as_ref(), set.kind);
    set.elements.iter().flat_map(of).collect()
}

/// What to remove from sets that stay, and what to add to all.
fn differing(
    before: &BTreeMap<Arc<str>, Set>,
    after: &BTreeMap<Arc<str>, Set>,
) -> (Elements, Elements) {
    let (mut removed, mut added) = (Elements::new(), Elements::new());
    for (name, set) in after {
        let old = before.get(name);
        let (mut less, mut more) = (Vec::new(), Vec::new());
        for (key, verdict) in old.iter().flat_map(|old| &old.elements) {
            if set.elements.get(key) != Some(verdict) {
                less.extend(of_set(key, verdict.as_ref(), set.kind));
            }
        }
        for (key, verdict) in &set.elements {
            if old.and_then(|old| old.elements.get(key)) != Some(verdict) {
                more.extend(of_set(key, verdict.as_ref(), set.kind));
            }
        }
        removed.insert(Arc::clone(name), less);
        added.insert(Arc::clone(name), more);
    }
    (removed, added)
}

/// Makes the table whole; what clients have as their target is taken over.
pub(super) fn replace(socket: &Socket, rules: &Rules) -> io::Result<()> {
    let clients = clients(socket).unwrap_or_else(|error| {
        // No rules would be worse than clients that are led to another target.
        tracing::warn!(%error, "clients of services with affinity begin anew");
        Vec::new()
    });
    Batch::whole(rules, clients).commit(socket)
}

/// Changes what differs.
pub(super) fn change(socket: &Socket, changes: &Changes) -> io::Result<()> {
    Batch::difference(changes).commit(socket)
}

/// Removes the table; one that is not there is fine.
pub(super) fn remove(socket: &Socket) -> io::Result<()> {
    let mut batch = Batch::new();
    // It can only be removed when it is there; adding it makes sure of that.
    batch.add_table();
    batch.delete_table();
    batch.commit(socket)
}

/// Forgets the targets of clients that are gone.
pub(super) fn forget_clients(
    socket: &Socket,
    is_gone: impl Fn(&Frontend, &Target) -> bool,
) -> io::Result<()> {
    let gone = |element: &Element| {
        client_of(element).is_some_and(|(frontend, target)| is_gone(&frontend, &target))
    };
    let gone: Vec<Element> = clients(socket)?.into_iter().filter(gone).collect();
    delete_clients(socket, &gone).map(drop)
}

/// Deletes clients, hundreds in one step; how many steps that took. A step that one of them refuses,
/// because its time was over just then, is taken in two halves.
fn delete_clients(socket: &Socket, gone: &[Element]) -> io::Result<usize> {
    let mut steps = 0;
    let mut parts: Vec<&[Element]> = pieces(gone).collect();
    while let Some(part) = parts.pop() {
        steps += 1;
        let mut batch = Batch::new();
        batch.elements(&Elements::from([(names::AFFINITY.into(), part.to_vec())]), false);
        match batch.commit(socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let halves = part.split_at(part.len() / 2);
                if part.len() > 1 {
                    parts.extend([halves.0, halves.1]);
                }
            }
            outcome => outcome?,
        }
    }
    Ok(steps)
}

/// The handle of the table, which no other table has; `None` when it is not there.
pub(super) fn handle(socket: &Socket) -> io::Result<Option<u64>> {
    let mut handle = None;
    let found = socket.get(
        GETTABLE,
        NFPROTO_INET,
        |to| to.text(1, TABLE),
        |message| {
            handle = message.attributes().u64(NFTA_TABLE_HANDLE);
        },
    );
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(handle),
    }
}

/// The elements of the map of affinity, with the time that they have left.
fn clients(socket: &Socket) -> io::Result<Vec<Element>> {
    let found = socket.dump(
        GETSETELEM,
        NFPROTO_INET,
        |to| {
            to.text(1, TABLE);
            to.text(2, names::AFFINITY);
        },
        |clients: &mut Vec<Element>, message| {
            let list = message.attributes().within(3);
            clients.extend(list.into_iter().flatten().filter_map(|(_, value)| client(value)));
        },
    );
    match found {
        // A map of another kernel or an older version may be of another kind: begun anew.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

fn client(bytes: &[u8]) -> Option<Element> {
    let element = Reader::new(bytes);
    let key = element.within(1)?.get(1).filter(|key| key.len() == 16)?.to_vec();
    let value = element.within(2)?.get(1).filter(|value| value.len() == 8)?.to_vec();
    let lives = Some((element.u64(4)?, element.u64(5).filter(|left| *left > 0)?));
    Some(Element { lives, ..Element::new(key, Value::Bytes(value)) })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use logic::network::rules::{Site, plan};

    use super::*;
    use crate::io::net::{create, inside, remove as remove_namespace};

    fn clients_of(target: u8, count: u16) -> Vec<Element> {
        let of = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let key = [10, 43, 0, 7, 6, 0, 0, 0, 0, 80, 0, 0, 192, 0, high, low].to_vec();
            let value = Value::Bytes(vec![10, 42, 0, target, 0x1f, 0x90, 0, 0]);
            Element { lives: Some((600_000, 600_000)), ..Element::new(key, value) }
        };
        (0..count).map(of).collect()
    }

    fn trial() -> io::Result<()> {
        let block = |text: &str| text.parse().expect("a block");
        let site = Site::new("here", block("10.42.0.0/16"), block("10.43.0.0/16"));
        let socket = Socket::open()?;
        let rules = plan(&Arc::default(), &Arc::default(), &site);
        let all = clients_of(2, 3_000);
        Batch::whole(&rules, all.clone()).commit(&socket)?;
        assert_eq!(clients(&socket)?.len(), 3_000);
        // Two of them are gone already when they are to be deleted.
        let over = [all[5].clone(), all[1_700].clone()];
        assert_eq!(delete_clients(&socket, &over)?, 1);
        let steps = delete_clients(&socket, &all[..2_900])?;
        assert!(steps < 60, "2,900 clients took {steps} steps");
        assert_eq!(clients(&socket)?.len(), 100);
        let gone = |frontend: &Frontend, target: &Target| {
            assert_eq!((frontend.port, *target), (80, (Ipv4Addr::new(10, 42, 0, 2), 8080)));
            true
        };
        forget_clients(&socket, gone)?;
        assert_eq!(clients(&socket)?.len(), 0);
        remove(&socket)
    }

    #[test]
    fn many_clients_are_forgotten_in_few_steps() {
        let path = std::env::temp_dir().join(format!("kumquat-clients-{}", std::process::id()));
        if create(&path).is_err() {
            println!("not run: this needs network namespaces");
            return;
        }
        let outcome = inside(&path, trial);
        remove_namespace(&path).expect("namespace removed");
        outcome.expect("trial");
    }
}
