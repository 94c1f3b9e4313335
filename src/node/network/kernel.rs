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

use logic::network::address_pool::own_address;
use logic::network::paths::{Hop, Way, hops};
use model::ids::Uid;
use model::network::{Ipv4Block, NetBoard, NetState};

use super::record::Record;
use super::sandbox::random;
use crate::io::net::{
    Link, LinkAddress, Links, Mac, NextHop, Prepared, Route, Routes, is_pod_link, sysctl,
};

/// The tunnel's link.
const TUNNEL: &str = "kq-vxlan";
/// Its network and port (RFC 7348; the port is Linux' old default, which other pod networks use too).
const TUNNEL_NUMBER: u32 = 1;
const TUNNEL_PORT: u16 = 8_472;
/// What VXLAN over IPv4 adds to a packet.
const TUNNEL_BYTES: u32 = 50;
/// MTU where the board's own link is not known.
pub(super) const MTU_DEFAULT: u32 = 1_500;

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
    pub(super) problems: Vec<String>,
    pub(super) cut_off: BTreeSet<String>,
    pub(super) mended: Vec<(Uid, Record)>,
    pub(super) failure: Option<String>,
}

/// The board's end of the wire.
pub(super) struct Kernel {
    links: Links,
    routes: Routes,
    /// What the tunnel's link was told: block and board.
    tunnels: BTreeMap<Ipv4Block, Ipv4Addr>,
    /// The links of pods are as they should be.
    settled: bool,
}

impl Kernel {
    /// Of the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let (links, routes) = (Links::open()?, Routes::open()?);
        Ok(Self { links, routes, tunnels: BTreeMap::new(), settled: false })
    }

    /// Makes it true, as far as it goes. Blocking.
    pub(super) fn pass(mut self, wish: Wish) -> (Self, Done) {
        let mut done = Done {
            changes: 0,
            mtu: MTU_DEFAULT,
            problems: Vec::new(),
            cut_off: BTreeSet::new(),
            mended: Vec::new(),
            failure: None,
        };
        if let Err(error) = self.make_true(&wish, &mut done) {
            done.failure = Some(error.to_string());
        }
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
        done.mtu = uplink_mtu(&links, &self.links.addresses()?, wish.address);
        let Some(block) = wish.block else { return Ok(()) };
        let own = own_address(block);
        self.set_own_address(wish.pod_range, own, done)?;
        let hops = self.hops(wish, done);
        let is_tunnelled = hops.values().any(|hop| matches!(hop, Hop::Tunnel { .. }));
        let tunnel = match is_tunnelled {
            true => self.tunnel(&links, own, done),
            false => None,
        };
        if is_tunnelled {
            done.mtu -= TUNNEL_BYTES.min(done.mtu / 2);
        }
        let mut wanted = vec![Route {
            to: wish.pod_range.network,
            prefix: wish.pod_range.prefix,
            hop: NextHop::Unreachable,
            source: None,
        }];
        // Rules change the destination before a packet leaves. Without a route a board that has no default
        // one could not begin, and what no rule leads anywhere would leave through it.
        if let Some(lo) = self.links.find("lo")? {
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
                    self.lead_into_tunnel(link, *to, *remote)?;
                    NextHop::Gateway { via: own_address(*to), link }
                }
                (Hop::Tunnel { .. }, None) => continue,
            };
            wanted.push(Route { to: to.network, prefix: to.prefix, hop, source: Some(own) });
        }
        self.forget_tunnels(tunnel, &hops);
        note_cut_off(wish, &hops, tunnel, done);
        let failed = self.change_routes(&wanted, done)?;
        self.keep_pods(wish, own, &links, done)?;
        self.settled = true;
        failed.map_or(Ok(()), Err)
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
                done.failure = Some(format!("the way to {address} is not known: {error}"));
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

    /// Changes the difference; gives the first failure after trying everything.
    fn change_routes(
        &mut self,
        wanted: &[Route],
        done: &mut Done,
    ) -> io::Result<Option<io::Error>> {
        let there = self.routes.list()?;
        let mut failed = None;
        let key = |route: &Route| (route.to, route.prefix);
        for old in &there {
            // Those to pods go with their links.
            let is_pods = matches!(old.hop, NextHop::Link(_)) && old.prefix == 32;
            if !is_pods && wanted.iter().all(|route| key(route) != key(old)) {
                done.changes += 1;
                failed = failed.or(self.routes.remove(old).err());
            }
        }
        for route in wanted.iter().filter(|route| !there.contains(route)) {
            done.changes += 1;
            failed = failed.or(self.routes.set(route).err());
        }
        Ok(failed)
    }

    /// Sees to the links of pods: each has one, and the board has the way to it.
    fn keep_pods(
        &mut self,
        wish: &Wish,
        own: Ipv4Addr,
        links: &[Link],
        done: &mut Done,
    ) -> io::Result<()> {
        let there: BTreeSet<Ipv4Addr> = self.routes.list()?.iter().map(|route| route.to).collect();
        for (uid, record) in &wish.records {
            let link = links.iter().find(|link| link.name == record.veth);
            match link {
                Some(_) if self.settled && there.contains(&record.address) => {}
                Some(link) => self.routes.set_pod(link.index, (record.address, record.mac), own)?,
                None => done.mended.extend(self.mend(wish, (*uid, record), own, done.mtu)),
            }
        }
        Ok(())
    }

    /// Gives a pod whose link was lost another one. A pod that has no namespace is not begun yet, or
    /// is about to go.
    fn mend(
        &mut self,
        wish: &Wish,
        (uid, record): (Uid, &Record),
        own: Ipv4Addr,
        mtu: u32,
    ) -> Option<(Uid, Record)> {
        let namespace = wish.namespaces.get(&uid).filter(|path| path.exists())?;
        let mended = random().and_then(|random| {
            let mut prepared = Prepared::mend(namespace, random, mtu)?;
            prepared.settle(&mut self.routes, record.address, own)?;
            let (veth, mac) = (prepared.name().to_owned(), prepared.mac());
            Ok(Record { veth, mac, ..record.clone() })
        });
        mended
            .inspect_err(|error| tracing::debug!(pod = %uid, %error, "no other link"))
            .ok()
            .map(|record| (uid, record))
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
