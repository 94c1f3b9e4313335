//! A network namespace for a pod, made before there is a pod for it.
//!
//! ```text
//!   board                             pod
//!   kq3f9a1c07b2e ───── veth ─────── eth0 ── default via 169.254.1.1
//! ```
//! Both ends are up; what is left for a start is one address inside and two requests outside
//! ([`Prepared::settle`], [`super::Routes::set_pod`]). There is no bridge and no ARP: each end knows the
//! hardware address of the other for good. The namespace lives by an open descriptor: nothing stays
//! behind when this process dies before a pod has adopted it.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use super::links::{Links, Mac, RTM_NEWADDR, VethEnd, address_message};
use super::netlink::{CREATE, Socket};
use super::routes::{NextHop, Route, Routes};
use super::{namespace, sysctl};

/// Name of the pod's end.
const POD_END: &str = "eth0";
/// Where pods send everything; nobody has it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Hardware address of the board's end of every link: they never meet.
const BOARD_MAC: Mac = [0x0a, 0x6b, 0x71, 0, 0, 1];
/// Start of the names of the boards' ends, followed by [`HEX_DIGITS`] digits.
const NAME_START: &str = "kq";
const HEX_DIGITS: usize = 11;
/// This thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A namespace with a link to the board's.
#[derive(Debug)]
pub struct Prepared {
    namespace: Arc<File>,
    inside: Socket,
    pod_end: u32,
    board_end: u32,
    name: String,
    mac: Mac,
}

impl Prepared {
    /// Makes one, with a link to the calling thread's namespace. `random` makes its names unique.
    ///
    /// # Errors
    /// The system refuses; `Unsupported` without the module `veth`.
    pub fn make(random: [u8; 8], mtu: u32) -> io::Result<Self> {
        let board = File::open(OWN)?;
        namespace::on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Links::open()?.set_up("lo")?;
            Self::wire(File::open(OWN)?, &board, random, mtu)
        })
    }

    /// Gives the namespace at `path`, whose link was lost, another one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mend(path: &Path, random: [u8; 8], mtu: u32) -> io::Result<Self> {
        let (board, namespace) = (File::open(OWN)?, File::open(path)?);
        // Never the board's own links: its `eth0` is not a pod's.
        if is_same(&board, &namespace)? {
            return Err(io::Error::other("the pod has the board's own network namespace"));
        }
        namespace::on_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Links::open()?.delete(POD_END)?;
            Self::wire(namespace.try_clone()?, &board, random, mtu)
        })
    }

    /// Runs in the pod's namespace.
    fn wire(namespace: File, board: &File, random: [u8; 8], mtu: u32) -> io::Result<Self> {
        // Without IPv6 these links are silent: no router is asked for, no group is joined. A kernel
        // that has none has no such setting.
        let _none = sysctl::set("ipv6/conf/default/disable_ipv6", "1");
        let name = name(random);
        let [a, b, c, d, e, ..] = random;
        // Locally administered, for one host.
        let mac = [0x0a, a, b, c, d, e];
        let (own, peer) = (VethEnd { name: POD_END, mac }, VethEnd { name: &name, mac: BOARD_MAC });
        Links::open()?.add_pod_veth(own, peer, board.as_fd(), mtu)?;
        let pod_end = if_nametoindex(POD_END)?;
        let mut routes = Routes::open()?;
        routes.set_neighbour(pod_end, GATEWAY, BOARD_MAC)?;
        let hop = NextHop::Gateway { via: GATEWAY, link: pod_end };
        routes.set(&Route { to: Ipv4Addr::UNSPECIFIED, prefix: 0, hop, source: None })?;
        let inside = Socket::open()?;
        setns(board, CloneFlags::CLONE_NEWNET)?;
        for (setting, value) in [("ipv6", "disable_ipv6"), ("ipv4", "rp_filter")] {
            // The second lets a pod send from its own address only: the way back must be this link.
            let _refused = sysctl::set(&format!("{setting}/conf/{name}/{value}"), "1");
        }
        Links::open()?.set_up(&name)?;
        let board_end = if_nametoindex(name.as_str())?;
        Ok(Self { namespace: Arc::new(namespace), inside, pod_end, board_end, name, mac })
    }

    /// What keeps the namespace, and [`Self::path`] true, whatever becomes of this value.
    pub fn hold(&self) -> Arc<File> {
        Arc::clone(&self.namespace)
    }

    /// A file by which another process of this board can adopt the namespace while this value, or what
    /// [`Self::hold`] gave, lives: after that the number may be another file's.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }

    /// Name of the board's end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the link is still there: anybody on the board can remove it.
    pub fn is_wired(&self) -> bool {
        if_nametoindex(self.name.as_str()) == Ok(self.board_end)
    }

    /// Hardware address of the pod's end.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Gives the pod its address, and ties it to the board, which speaks to it from `source`.
    ///
    /// # Errors
    /// The board does not have `source`, or what the kernel says.
    pub fn settle(
        &mut self,
        routes: &mut Routes,
        address: Ipv4Addr,
        source: Ipv4Addr,
    ) -> io::Result<()> {
        let own = address_message((RTM_NEWADDR, CREATE), self.pod_end, address, 32);
        self.inside.request(own)?;
        routes.set_pod(self.board_end, (address, self.mac), source)
    }
}

/// Whether two open files are the same one.
fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn name(random: [u8; 8]) -> String {
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME_START}{}", &digits[..HEX_DIGITS])
}

/// Whether a link of this name was made for a pod.
pub fn is_pod_link(name: &str) -> bool {
    name.strip_prefix(NAME_START)
        .is_some_and(|rest| rest.len() == HEX_DIGITS && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::io::net::{create, inside, remove};

    #[test]
    fn only_pods_have_such_names() {
        assert!(is_pod_link(&name([255, 1, 2, 3, 4, 5, 6, 7])));
        assert_eq!(name([0xab; 8]).len(), 13);
        for other in ["kqd1", "kq-vxlan", "kq", "kqabcdefabcdg", "eth0", "xkqabcdefabcde"] {
            assert!(!is_pod_link(other), "{other}");
        }
    }

    /// Two pods of one board, and the board, reach each other; a mended one too.
    #[test]
    fn pods_of_a_board_reach_each_other() {
        let board = std::env::temp_dir().join(format!("kumquat-pods-{}", std::process::id()));
        if let Err(error) = create(&board) {
            println!("not run: network namespaces cannot be made here: {error}");
            return;
        }
        let own = Ipv4Addr::new(10, 42, 0, 1);
        let at = |last| Ipv4Addr::new(10, 42, 0, last);
        let outcome = inside(&board, || {
            let (mut links, mut routes) = (Links::open()?, Routes::open()?);
            links.add_address("lo", own, 32)?;
            sysctl::set("ipv4/ip_forward", "1")?;
            let mut one = Prepared::make([1; 8], 1_500)?;
            let mut two = Prepared::make([2; 8], 1_500)?;
            one.settle(&mut routes, at(2), own)?;
            two.settle(&mut routes, at(3), own)?;
            let listener = inside(&one.path(), || TcpListener::bind("0.0.0.0:80"))?;
            let reach = |from: Option<&Path>, to: Ipv4Addr, seen: Ipv4Addr| {
                let connected = match from {
                    Some(from) => inside(from, || TcpStream::connect((to, 80)))?,
                    None => TcpStream::connect((to, 80))?,
                };
                let (_, peer) = listener.accept()?;
                assert_eq!(peer.ip(), seen);
                drop(connected);
                io::Result::Ok(())
            };
            reach(Some(&two.path()), at(2), at(3))?;
            reach(Some(&one.path()), at(2), at(2))?;
            reach(None, at(2), own)?;
            assert!(two.is_wired());
            links.delete(two.name())?;
            assert!(!two.is_wired());
            let mut mended = Prepared::mend(&two.path(), [3; 8], 1_500)?;
            mended.settle(&mut routes, at(3), own)?;
            reach(Some(&mended.path()), at(2), at(3))?;
            // A pod that takes another pod's address is not heard.
            inside(&mended.path(), || Links::open()?.add_address("eth0", at(9), 32))?;
            // A link of the board itself is never taken for a pod's.
            let own_links = links.list()?.len();
            assert!(Prepared::mend(Path::new(OWN), [4; 8], 1_500).is_err());
            assert_eq!(links.list()?.len(), own_links);
            let names = links.list()?.into_iter().filter(|link| is_pod_link(&link.name)).count();
            assert_eq!(names, 2);
            Ok(())
        });
        remove(&board).expect("removed");
        outcome.expect("pods of a board");
    }
}
