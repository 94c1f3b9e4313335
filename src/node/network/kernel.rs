//! One pass over the kernel: reads what links and routes there are, and changes the difference to what
//! there should be. Blocking.
//!
//! Routes bear a protocol number of their own and links names of their own; what others made is left
//! alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logic::network::address_pool::own_address;
use logic::network::paths::{Hop, TUNNEL_PORT, Way, hops};
use model::ids::Uid;
use model::network::{Ipv4Block, NetBoard, NetState};

use super::record::Record;
use super::sandbox::random;
use crate::io::net::{
    Link, LinkAddress, Links, Mac, NextHop, Prepared, Route, Routes, is_pod_link, sysctl,
};

/// The tunnel's link.
const TUNNEL: &str = "kq-vxlan";
/// Its network (RFC 7348).
const TUNNEL_NUMBER: u32 = 1;
/// What VXLAN over IPv4 adds to a packet.
const TUNNEL_BYTES: u32 = 50;
/// MTU where the board's own link is not known.
pub(super) const MTU_DEFAULT: u32 = 1_500;

/// First and longest pause after a link that could not be made anew: trying makes announcements
/// itself, and they would begin the next try.
const MEND_PAUSE_MIN: Duration = Duration::from_secs(2);
const MEND_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What one pass makes true.
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) pod_range: Ipv4Block,
    pub(super) service_range: Ipv4Block,
    pub(super) block: Option<Ipv4Block>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) records: BTreeMap<Uid, Record>,
    pub(super) namespaces: BTreeMap<Uid, PathBuf>,
    pub(super) state: Arc<NetState>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) changes: u64,
    pub(super) mtu: u32,
    /// The block of which the board has its own address: pods can have the others.
    pub(super) block: Option<Ipv4Block>,
    pub(super) problems: Vec<String>,
    pub(super) cut_off: BTreeSet<String>,
    pub(super) mended: Vec<Mended>,
    /// The first thing that could not be done; all others were tried.
    pub(super) failure: Option<String>,
}

/// A pod whose link was made anew.
pub(super) struct Mended {
    pub(super) uid: Uid,
    /// Name of the link before.
    pub(super) lost: String,
    pub(super) record: Record,
}

/// A link that could not be made anew, to be tried again.
struct Unmended {
    after: Instant,
    pause: Duration,
    error: String,
}

impl Done {
    fn new(mtu: u32) -> Self {
        Self {
            changes: 0,
            mtu,
            block: None,
            problems: Vec::new(),
            cut_off: BTreeSet::new(),
            mended: Vec::new(),
            failure: None,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.failure.get_or_insert_with(|| format!("{}: {error}", what()));
        }
    }
}

/// The board's end of the wire.
pub(super) struct Kernel {
    links: Links,
    routes: Routes,
    /// What the tunnel's link was told: block and board.
    tunnels: BTreeMap<Ipv4Block, Ipv4Addr>,
    /// Under which address the tunnel's link was told to send.
    tunnel_source: Option<Ipv4Addr>,
    /// The links of pods are as they should be.
    settled: bool,
    /// Links of pods that could not be made anew.
    unmended: BTreeMap<Uid, Unmended>,
    /// MTU of new pods, while the links cannot be listed.
    mtu: u32,
}

impl Kernel {
    /// Of the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let (links, routes) = (Links::open()?, Routes::open()?);
        let (tunnels, unmended) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            links,
            routes,
            tunnels,
            tunnel_source: None,
            settled: false,
            unmended,
            mtu: MTU_DEFAULT,
        })
    }

    /// Makes it true, as far as it goes. Blocking.
    pub(super) fn pass(mut self, wish: Wish) -> (Self, Done) {
        let mut done = Done::new(self.mtu);
        let outcome = self.make_true(&wish, &mut done);
        done.note(|| "links and addresses".to_owned(), outcome);
        self.mtu = done.mtu;
        (self, done)
    }

    fn make_true(&mut self, wish: &Wish, done: &mut Done) -> io::Result<()> {
        if let Err(error) = sysctl::set("ipv4/ip_forward", "1") {
            done.problems.push(format!(
                "pods reach no other board: forwarding cannot be switched on ({error}): run \
                 `sysctl -w net.ipv4.ip_forward=1`"
            ));
        }
        let links = self.links.list()?;
        let addresses = self.links.addresses()?;
        done.mtu = uplink_mtu(&links, &addresses, wish.address);
        let Some(block) = wish.block else { return Ok(()) };
        let own = own_address(block);
        self.set_own_address(wish.pod_range, own, done)?;
        done.block = Some(block);
        let hops = self.hops(wish, done);
        let is_tunnelled = hops.values().any(|hop| matches!(hop, Hop::Tunnel { .. }));
        let tunnel = match is_tunnelled {
            true => self.tunnel(&links, own, done),
            false => None,
        };
        if is_tunnelled {
            done.mtu -= TUNNEL_BYTES.min(done.mtu / 2);
        }
        if let Some(link) = tunnel {
            let is_own = |own: &Ipv4Addr| addresses.iter().any(|known| known.address == *own);
            let source = wish.address.filter(is_own).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let told = self.send_under(link, source);
            done.note(|| format!("the tunnel's own address {source}"), told);
        }
        let mut wanted = vec![Route {
            to: wish.pod_range.network,
            prefix: wish.pod_range.prefix,
            hop: NextHop::Unreachable,
            source: None,
        }];
        // Rules change the destination before a packet leaves. Without a route a board that has no default
        // one could not begin, and what no rule leads anywhere would leave through it.
        if let Some(lo) = links.iter().find(|link| link.name == "lo") {
            let Ipv4Block { network, prefix } = wish.service_range;
            let hop = NextHop::Link(lo.index);
            wanted.push(Route { to: network, prefix, hop, source: Some(own) });
        }
        for (to, hop) in &hops {
            let hop = match (hop, tunnel) {
                (Hop::Link { interface, via }, _) => {
                    NextHop::Gateway { via: *via, link: *interface }
                }
                (Hop::Tunnel { remote }, Some(link)) => {
                    let led = self.lead_into_tunnel(link, *to, *remote);
                    done.note(|| format!("the tunnel to {remote}"), led);
                    NextHop::Gateway { via: own_address(*to), link }
                }
                (Hop::Tunnel { .. }, None) => continue,
            };
            wanted.push(Route { to: to.network, prefix: to.prefix, hop, source: Some(own) });
        }
        self.forget_tunnels(tunnel, &hops);
        note_cut_off(wish, &hops, tunnel, done);
        let listed = self.change_routes(&wanted, done);
        done.note(|| "the list of routes".to_owned(), listed);
        self.settled = self.keep_pods(wish, own, &links, done);
        Ok(())
    }

    /// The board's own address of its block lies on `lo`, which is always there.
    fn set_own_address(
        &mut self,
        range: Ipv4Block,
        own: Ipv4Addr,
        done: &mut Done,
    ) -> io::Result<()> {
        let lo = self.links.find("lo")?.map_or(0, |link| link.index);
        let mut has = false;
        for known in self.links.addresses()?.iter().filter(|known| known.link == lo) {
            if known.address == own {
                has = true;
            } else if range.contains(known.address) {
                self.links.remove_address("lo", known.address, known.prefix)?;
            }
        }
        if !has {
            self.links.add_address("lo", own, 32)?;
            done.changes += 1;
        }
        Ok(())
    }

    fn hops(&mut self, wish: &Wish, done: &mut Done) -> BTreeMap<Ipv4Block, Hop> {
        let routes = &mut self.routes;
        hops(&wish.state, &wish.name, wish.block, |address| match routes.look_up(address) {
            Ok(found) if found.nowhere => Way::Nowhere,
            Ok(found) if found.routed => Way::Routed,
            Ok(found) => Way::Link(found.link),
            Err(error) => {
                done.note(|| format!("the way to {address}"), Err(error));
                Way::Nowhere
            }
        })
    }

    /// The tunnel's link, made if need be. `None`, and said so, when the kernel has none.
    fn tunnel(&mut self, links: &[Link], own: Ipv4Addr, done: &mut Done) -> Option<u32> {
        let (mac, mtu) = (tunnel_mac(own), done.mtu - TUNNEL_BYTES.min(done.mtu / 2));
        let known = links.iter().find(|link| link.name == TUNNEL);
        if let Some(link) = known
            && (link.mac, link.mtu, link.up) == (mac, mtu, true)
        {
            return Some(link.index);
        }
        self.tunnels.clear();
        self.tunnel_source = None;
        let made = self.links.delete(TUNNEL).and_then(|()| {
            self.links.add_vxlan(TUNNEL, (TUNNEL_NUMBER, TUNNEL_PORT), mac, mtu)?;
            // What comes from a board's own address would be dropped where the check is strict.
            let _as_it_is = sysctl::set(&format!("ipv4/conf/{TUNNEL}/rp_filter"), "2");
            self.links.find(TUNNEL)
        });
        match made {
            Ok(link) => {
                done.changes += 1;
                link.map(|link| link.index)
            }
            Err(error) => {
                done.problems.push(format!(
                    "boards behind a router are not reached by pods: the tunnel cannot be made \
                     ({error}): load it with `modprobe vxlan`"
                ));
                None
            }
        }
    }

    /// The others take frames from the address alone that the master has of this board; by itself the
    /// kernel may send under another one, of the link that leads to them.
    fn send_under(&mut self, tunnel: u32, source: Ipv4Addr) -> io::Result<()> {
        if self.tunnel_source != Some(source) {
            self.links.set_vxlan_source(tunnel, source)?;
            self.tunnel_source = Some(source);
        }
        Ok(())
    }

    fn lead_into_tunnel(&mut self, link: u32, to: Ipv4Block, remote: Ipv4Addr) -> io::Result<()> {
        if self.tunnels.get(&to) == Some(&remote) {
            return Ok(());
        }
        let end = own_address(to);
        self.routes.set_tunnel(link, (end, tunnel_mac(end)), remote)?;
        self.tunnels.insert(to, remote);
        Ok(())
    }

    fn forget_tunnels(&mut self, link: Option<u32>, hops: &BTreeMap<Ipv4Block, Hop>) {
        let (links, routes) = (link, &mut self.routes);
        self.tunnels.retain(|block, remote| {
            let used = matches!(hops.get(block), Some(Hop::Tunnel { .. }));
            if let (false, Some(link)) = (used, links) {
                let end = own_address(*block);
                if let Err(error) = routes.remove_tunnel(link, (end, tunnel_mac(end)), *remote) {
                    tracing::debug!(%block, %error, "an end of the tunnel is not forgotten");
                }
            }
            used
        });
    }

    /// Changes the difference; a route that cannot be changed is noted, and the others are.
    fn change_routes(&mut self, wanted: &[Route], done: &mut Done) -> io::Result<()> {
        let there = self.routes.list()?;
        let name = |route: &Route| format!("the route to {}/{}", route.to, route.prefix);
        let key = |route: &Route| (route.to, route.prefix);
        for old in &there {
            // Those to pods go with their links.
            let is_pods = matches!(old.hop, NextHop::Link(_)) && old.prefix == 32;
            if !is_pods && wanted.iter().all(|route| key(route) != key(old)) {
                done.changes += 1;
                done.note(|| name(old), self.routes.remove(old));
            }
        }
        for route in wanted.iter().filter(|route| !there.contains(route)) {
            done.changes += 1;
            done.note(|| name(route), self.routes.set(route));
        }
        Ok(())
    }

    /// Sees to the links of pods: each has one, and the board has the way to it. Whether all do.
    fn keep_pods(&mut self, wish: &Wish, own: Ipv4Addr, links: &[Link], done: &mut Done) -> bool {
        let there: BTreeSet<Ipv4Addr> = match self.routes.list() {
            Ok(routes) => routes.iter().map(|route| route.to).collect(),
            // Setting again what is there does no harm.
            Err(_) => BTreeSet::new(),
        };
        let mut whole = true;
        self.unmended.retain(|uid, _| wish.records.contains_key(uid));
        for (uid, record) in &wish.records {
            let Some(link) = links.iter().find(|link| link.name == record.veth) else {
                self.mend(wish, (*uid, record), own, done);
                continue;
            };
            self.unmended.remove(uid);
            if self.settled && there.contains(&record.address) {
                continue;
            }
            match self.routes.set_pod(link.index, (record.address, record.mac), own) {
                // The pod went while this pass ran.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {}
                set => {
                    whole &= set.is_ok();
                    done.note(|| format!("the route to pod {uid}"), set);
                }
            }
        }
        whole
    }

    /// Gives a pod whose link was lost another one. A pod that has no namespace is not begun yet, or
    /// is about to go.
    fn mend(&mut self, wish: &Wish, (uid, record): (Uid, &Record), own: Ipv4Addr, done: &mut Done) {
        let Some(namespace) = wish.namespaces.get(&uid).filter(|path| path.exists()) else {
            return;
        };
        let what = || format!("another link of pod {uid}");
        let (now, before) = (Instant::now(), self.unmended.get(&uid));
        if let Some(before) = before.filter(|before| before.after > now) {
            return done.note(what, Err(io::Error::other(before.error.clone())));
        }
        let pause = before.map_or(MEND_PAUSE_MIN, |before| before.pause * 2).min(MEND_PAUSE_MAX);
        let mended = random().and_then(|random| {
            let mut prepared = Prepared::mend(namespace, random, done.mtu)?;
            prepared.settle(&mut self.routes, record.address, own)?;
            let (veth, mac) = (prepared.name().to_owned(), prepared.mac());
            Ok(Record { veth, mac, ..record.clone() })
        });
        match mended {
            Ok(mended) => {
                let lost = record.veth.clone();
                done.mended.push(Mended { uid, lost, record: mended });
            }
            Err(error) => {
                let unmended = Unmended { after: now + pause, pause, error: error.to_string() };
                self.unmended.insert(uid, unmended);
                done.note(what, Err(error));
            }
        }
    }
}

/// The MTU of the link that has the board's address.
fn uplink_mtu(links: &[Link], addresses: &[LinkAddress], own: Option<Ipv4Addr>) -> u32 {
    let of_own = addresses.iter().find(|known| Some(known.address) == own);
    let link = of_own.and_then(|known| links.iter().find(|link| link.index == known.link));
    link.map_or(MTU_DEFAULT, |link| link.mtu)
}

/// The hardware address of a board's end of the tunnel follows from its address of its block, so that
/// nobody has to be asked for it.
fn tunnel_mac(own: Ipv4Addr) -> Mac {
    let [a, b, c, d] = own.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Boards with pods to which no route leads.
fn note_cut_off(
    wish: &Wish,
    hops: &BTreeMap<Ipv4Block, Hop>,
    tunnel: Option<u32>,
    done: &mut Done,
) {
    let is_reached = |board: &NetBoard| match board.pods.and_then(|block| hops.get(&block)) {
        Some(Hop::Link { .. }) => true,
        Some(Hop::Tunnel { .. }) => tunnel.is_some(),
        None => false,
    };
    let others = wish.state.boards.values().filter(|board| board.name != wish.name);
    let with_pods = others.filter(|board| board.ready && board.pods.is_some());
    let cut_off = with_pods.filter(|board| !is_reached(board));
    done.cut_off = cut_off.map(|board| board.name.clone()).collect();
}

/// Removes everything that this board's pod network made in the kernel. Blocking; idempotent.
///
/// # Errors
/// The first thing that would not go.
pub(super) fn remove_all(pod_range: Option<Ipv4Block>) -> io::Result<()> {
    let (mut links, mut routes) = (Links::open()?, Routes::open()?);
    for link in links.list()? {
        if link.name == TUNNEL || is_pod_link(&link.name) {
            links.delete(&link.name)?;
        }
    }
    for route in routes.list()? {
        routes.remove(&route)?;
    }
    let lo = links.find("lo")?.map_or(0, |link| link.index);
    for known in links.addresses()?.iter().filter(|known| known.link == lo) {
        if pod_range.is_some_and(|range| range.contains(known.address)) {
            links.remove_address("lo", known.address, known.prefix)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::io::net::{create, inside, remove};

    use super::*;

    const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Runs in a board's network of its own, where it has an address and a neighbourhood.
    fn on_board(name: &str, work: impl FnOnce(&Path) -> io::Result<()> + Send) {
        let board = std::env::temp_dir().join(format!("kumquat-{name}-{}", std::process::id()));
        if let Err(error) = create(&board) {
            println!("not run: network namespaces cannot be made here: {error}");
            return;
        }
        let outcome = inside(&board, || {
            let mut links = Links::open()?;
            links.set_up("lo")?;
            links.add_bridge("br0")?;
            links.add_address("br0", UPLINK, 24)?;
            work(&board)
        });
        remove(&board).expect("removed");
        outcome.expect("a pass");
    }

    fn wish(boards: &[(&str, Ipv4Addr, &str)]) -> Wish {
        let board = |(name, address, pods): &(&str, Ipv4Addr, &str)| {
            let (name, pods) = ((*name).to_owned(), pods.parse().ok());
            let key = Arc::from(name.as_str());
            let address = Some(*address);
            (key, Arc::new(NetBoard { name, address, pods, ready: true, ..NetBoard::default() }))
        };
        Wish {
            name: "own".to_owned(),
            pod_range: "10.42.0.0/16".parse().expect("a range"),
            service_range: "10.43.0.0/16".parse().expect("a range"),
            block: "10.42.0.0/25".parse().ok(),
            address: Some(UPLINK),
            records: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            state: Arc::new(NetState {
                boards: boards.iter().map(board).collect(),
                ..NetState::default()
            }),
        }
    }

    fn record(last: u8, prepared: &Prepared) -> Record {
        Record {
            address: Ipv4Addr::new(10, 42, 0, last),
            veth: prepared.name().to_owned(),
            mac: prepared.mac(),
            host_ports: Vec::new(),
        }
    }

    /// A board whose block is none: no route leads there.
    #[test]
    fn one_bad_peer_keeps_neither_the_block_nor_the_others_back() {
        on_board("bad-peer", |_| {
            let at = |last| Ipv4Addr::new(192, 0, 2, last);
            let mut wish = wish(&[("bad", at(2), "10.42.1.0/25"), ("good", at(3), "10.42.2.0/25")]);
            let state = Arc::get_mut(&mut wish.state).expect("just made");
            let bad = state.boards.get_mut("bad").and_then(Arc::get_mut).expect("just made");
            let network = Ipv4Addr::new(10, 42, 1, 7);
            bad.pods = Some(Ipv4Block { network, prefix: 25 });
            let (block, pod) = (wish.block, Prepared::make([5; 8], 1_500)?);
            let records = [(Uid([5; 16]), record(7, &pod))].into();
            let (_, done) = Kernel::open()?.pass(Wish { records, ..wish });
            let failure = done.failure.expect("the bad one is told");
            assert!(failure.contains("10.42.1.7/25"), "{failure}");
            assert_eq!(done.block, block);
            let routes: Vec<_> = Routes::open()?.list()?.iter().map(|route| route.to).collect();
            for there in [[10, 42, 2, 0], [10, 42, 0, 7]] {
                assert!(routes.contains(&there.into()), "{there:?} of {routes:?}");
            }
            Ok(())
        });
    }

    #[test]
    fn a_pod_that_goes_meanwhile_does_not_hold_the_others_up() {
        on_board("gone-pod", |_| {
            let (mut kernel, wish) = (Kernel::open()?, wish(&[]));
            let own = own_address(wish.block.expect("a block"));
            kernel.links.add_address("lo", own, 32)?;
            let (gone, stays) = (Prepared::make([6; 8], 1_500)?, Prepared::make([7; 8], 1_500)?);
            let records =
                [(Uid([6; 16]), record(8, &gone)), (Uid([7; 16]), record(9, &stays))].into();
            let links = kernel.links.list()?;
            kernel.links.delete(gone.name())?;
            let mut done = Done::new(MTU_DEFAULT);
            assert!(kernel.keep_pods(&Wish { records, ..wish }, own, &links, &mut done));
            assert_eq!(done.failure, None);
            let routes = kernel.routes.list()?;
            assert!(routes.iter().any(|route| route.to == Ipv4Addr::new(10, 42, 0, 9)));
            Ok(())
        });
    }

    /// Trying to mend a link makes announcements, each of which begins a pass.
    #[test]
    fn a_link_that_cannot_be_mended_is_not_tried_in_every_pass() {
        on_board("unmended", |board| {
            let uid = Uid([8; 16]);
            let pod = Prepared::make([8; 8], 1_500)?;
            let lost = record(9, &pod);
            drop(pod);
            Links::open()?.delete(&lost.veth)?;
            let mut kernel = Kernel::open()?;
            let mut after = None;
            for _ in 0..3 {
                let wish = Wish {
                    records: [(uid, lost.clone())].into(),
                    // The board's own: no link is made in it.
                    namespaces: [(uid, board.to_owned())].into(),
                    ..wish(&[])
                };
                let (back, done) = kernel.pass(wish);
                kernel = back;
                assert!(done.failure.is_some_and(|failure| failure.contains("another link")));
                let unmended = &kernel.unmended[&uid];
                assert_eq!(*after.get_or_insert(unmended.after), unmended.after);
            }
            Ok(())
        });
    }
}
