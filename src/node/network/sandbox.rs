//! The pods of this board in the network: their addresses, links and host ports.
//!
//! ```text
//!  namespaces made beforehand ──┐
//!  own block of addresses ──────┼─▶ reserve ─▶ Place ─▶ settle ──▶ pod is reachable
//!                               │     │ recorded in the run-dir        (the keeper adopts the
//!                               │     └▶ LocalPods, for the rules       namespace meanwhile)
//!  pod is torn down ────────────┴─▶ release: link, record, address
//! ```
//! Namespaces and links are made before there is a pod for them, because that takes milliseconds and a
//! start shall not wait; removing a link takes longer still, and nobody waits for that either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logic::network::address_pool::{AddressPool, own_address};
use logic::network::assigned::assigned;
use logic::network::local::{HostPort, LocalPod, LocalPods};
use logic::pod::Pod;
use model::ids::Uid;
use model::limits::PREPARED_NAMESPACES_MAX;
use model::network::{Ipv4Block, NetState, Protocol};
use tokio::sync::{mpsc, watch};

use super::record::{self, Record};
use super::state_file::Addresses;
use crate::io::net::{Links, Prepared, Routes, is_pod_link};
use crate::node::driver::blocking;

/// How long a start waits for the board's block or for a namespace, before it is told to come again.
const WAIT: Duration = Duration::from_secs(10);
/// Pause after a namespace could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// The pods of this board; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct PodNetwork {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    run_dir: PathBuf,
    pods: Mutex<Pods>,
    known: Known,
    prepared: tokio::sync::Mutex<mpsc::Receiver<(u32, Prepared)>>,
    /// Why the last namespace could not be made, while none can.
    trouble: watch::Receiver<Option<String>>,
    local: watch::Sender<Arc<LocalPods>>,
    /// All that have one, to be kept over a reboot.
    addresses: watch::Sender<Arc<Addresses>>,
}

/// What places depend on.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Where this board's pods have their addresses.
    pub(super) block: watch::Receiver<Option<Ipv4Block>>,
    /// MTU of the links of new pods.
    pub(super) mtu: watch::Receiver<u32>,
    /// Whose addresses the cluster knows.
    pub(super) state: watch::Receiver<Arc<NetState>>,
}

#[derive(Debug, Default)]
struct Pods {
    pool: Option<AddressPool>,
    records: BTreeMap<Uid, Record>,
    /// Addresses of pods before the reboot that have no place yet.
    former: Addresses,
}

/// A pod's place, reserved and not yet wired.
#[derive(Debug)]
pub(crate) struct Place {
    prepared: Prepared,
    address: Ipv4Addr,
    source: Ipv4Addr,
}

impl Place {
    /// The pod's address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The namespace, for the keeper to adopt while the file lives that comes with it: a settling that
    /// fails must not let go of it meanwhile, or the path soon names another file.
    pub(crate) fn namespace(&self) -> (PathBuf, Arc<File>) {
        (self.prepared.path(), self.prepared.hold())
    }

    /// Gives the pod its address and the board the way to it; gives back what keeps the namespace.
    ///
    /// # Errors
    /// What the kernel says, as a sentence.
    pub(crate) async fn settle(mut self) -> Result<Self, String> {
        let settled = blocking(move || {
            self.prepared.settle(&mut Routes::open()?, self.address, self.source)?;
            io::Result::Ok(self)
        });
        let settled = settled.await.ok_or("interrupted")?;
        settled.map_err(|error| format!("the pod's link cannot be set up: {error}"))
    }
}

/// What the pool of namespaces is filled by.
#[derive(Debug)]
pub(super) struct Filler {
    pool: mpsc::Sender<(u32, Prepared)>,
    mtu: watch::Receiver<u32>,
    trouble: watch::Sender<Option<String>>,
}

impl PodNetwork {
    /// Reads back the pods of this boot; `addresses` begins with those of the boot before.
    ///
    /// # Errors
    /// The run-dir cannot be read.
    pub(super) fn new(
        run_dir: &Path,
        known: Known,
        addresses: watch::Sender<Arc<Addresses>>,
    ) -> io::Result<(Self, Filler)> {
        // The one that the filler holds ready itself counts too.
        let (pool, prepared) = mpsc::channel(PREPARED_NAMESPACES_MAX);
        let (trouble, told) = watch::channel(None);
        let records: BTreeMap<Uid, Record> = record::all(run_dir)?.into_iter().collect();
        let mut former = Addresses::clone(&addresses.borrow());
        former.retain(|uid, _| !records.contains_key(uid));
        let mtu = known.mtu.clone();
        let shared = Shared {
            run_dir: run_dir.to_owned(),
            pods: Mutex::new(Pods { pool: None, records, former }),
            known,
            prepared: tokio::sync::Mutex::new(prepared),
            trouble: told,
            local: watch::Sender::default(),
            addresses,
        };
        let network = Self { shared: Arc::new(shared) };
        network.publish(&network.lock());
        Ok((network, Filler { pool, mtu, trouble }))
    }

    /// The pods, for the rules.
    pub(super) fn local(&self) -> watch::Receiver<Arc<LocalPods>> {
        self.shared.local.subscribe()
    }

    /// Why no namespace can be made, if none can.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.clone()
    }

    /// Takes an address and a namespace for a pod that has no place.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    pub(crate) async fn reserve(&self, pod: &Pod) -> Result<Place, String> {
        let uid = pod.uid();
        let block = self.block().await?;
        let prepared = self.prepared().await?;
        let state = self.shared.known.state.borrow().clone();
        let others = assigned(&state, block, &pod.metadata.namespace, &pod.metadata.name);
        let record = {
            let mut pods = self.lock();
            let address = pods.take(block, uid, others).ok_or_else(|| {
                format!("all addresses of this board's block {block} are taken: delete pods")
            })?;
            let (veth, mac) = (prepared.name().to_owned(), prepared.mac());
            let record = Record { address, veth, mac, host_ports: host_ports(pod) };
            pods.records.insert(uid, record.clone());
            self.publish(&pods);
            record
        };
        if let Err(error) = record.save(&self.shared.run_dir, uid) {
            self.release(uid).await;
            return Err(format!("the pod's address cannot be recorded: {error}"));
        }
        let source = own_address(block);
        Ok(Place { prepared, address: record.address, source })
    }

    async fn block(&self) -> Result<Ipv4Block, String> {
        let mut block = self.shared.known.block.clone();
        let known = tokio::time::timeout(WAIT, block.wait_for(Option::is_some)).await;
        let known = known.ok().and_then(Result::ok).and_then(|block| *block);
        known.ok_or_else(|| {
            "this board has no pod addresses yet: the master gives it a block when it is reached"
                .to_owned()
        })
    }

    async fn prepared(&self) -> Result<Prepared, String> {
        let deadline = tokio::time::Instant::now() + WAIT;
        let mut pool = self.shared.prepared.lock().await;
        loop {
            match tokio::time::timeout_at(deadline, pool.recv()).await {
                Ok(Some((mtu, prepared)))
                    if mtu == *self.shared.known.mtu.borrow() && prepared.is_wired() =>
                {
                    return Ok(prepared);
                }
                // It was made before the links' MTU changed, or somebody removed its link.
                Ok(Some(outdated)) => drop(blocking(move || drop(outdated)).await),
                Ok(None) => return Err("the board is stopping".to_owned()),
                Err(_) => {
                    let trouble = self.shared.trouble.borrow().clone();
                    return Err(trouble.unwrap_or_else(|| {
                        "the system is slow to make network namespaces".to_owned()
                    }));
                }
            }
        }
    }

    /// Whether a pod has a place, reserved or wired.
    pub(crate) fn has(&self, uid: Uid) -> bool {
        self.lock().records.contains_key(&uid)
    }

    /// Whether a pod that was set up has no place, though there are places to have. Without a block
    /// it would be stopped and could not be started again.
    pub(crate) fn has_lost(&self, uid: Uid) -> bool {
        self.shared.known.block.borrow().is_some() && !self.has(uid)
    }

    /// Removes a pod's link, record and address; a pod without any is fine.
    pub(crate) async fn release(&self, uid: Uid) {
        let veth = {
            let mut pods = self.lock();
            // From here on nobody mends the link.
            let Some(record) = pods.records.remove(&uid) else { return };
            self.publish(&pods);
            record.veth
        };
        let run_dir = self.shared.run_dir.clone();
        let removed = blocking(move || {
            Links::open()?.delete(&veth)?;
            record::remove(&run_dir, uid)
        });
        if let Some(Err(error)) = removed.await {
            // The link goes with its namespace in any case.
            tracing::warn!(pod = %uid, %error, "the pod's link is not removed");
        }
        // Not before the way to it is gone.
        if let Some(pool) = &mut self.lock().pool {
            pool.free(uid);
        }
    }

    /// Forgets the address that a pod had before the reboot: it does not come back.
    pub(crate) fn forget(&self, uid: Uid) {
        let mut pods = self.lock();
        if pods.former.remove(&uid).is_some() {
            self.publish(&pods);
        }
    }

    /// Releases all pods but these.
    pub(crate) async fn retain(&self, wanted: &BTreeSet<String>) {
        let gone = |uid: &&Uid| !wanted.contains(&uid.to_string());
        let unwanted: Vec<Uid> = {
            let mut pods = self.lock();
            pods.former.retain(|uid, _| !gone(&uid));
            self.publish(&pods);
            pods.records.keys().filter(gone).copied().collect()
        };
        for uid in unwanted {
            self.release(uid).await;
        }
    }

    /// Removes links that were made for pods and belong to none: an earlier process's.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn remove_strays(&self) -> io::Result<()> {
        let records = self.records();
        let removed = blocking(move || {
            let mut links = Links::open()?;
            for link in links.list()?.into_iter().filter(|link| is_pod_link(&link.name)) {
                if records.values().all(|record| record.veth != link.name) {
                    links.delete(&link.name)?;
                }
            }
            Ok(())
        });
        removed.await.unwrap_or(Ok(()))
    }

    /// What has to be true in the kernel: each pod's place, by uid.
    pub(super) fn records(&self) -> BTreeMap<Uid, Record> {
        self.lock().records.clone()
    }

    /// A pod's link was made anew in place of `lost`. Whether the pod still has that place.
    pub(super) fn mended(&self, uid: Uid, lost: &str, record: Record) -> bool {
        let mut pods = self.lock();
        if pods.records.get(&uid).is_none_or(|known| known.veth != lost) {
            return false;
        }
        if let Err(error) = record.save(&self.shared.run_dir, uid) {
            // The next agent takes the link for a stray one and mends it again.
            tracing::warn!(pod = %uid, %error, "the pod's new link is not recorded");
        }
        pods.records.insert(uid, record);
        self.publish(&pods);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, pods: &Pods) {
        let placed = pods.records.iter().map(|(uid, record)| (*uid, record.address));
        let addresses: Addresses =
            pods.former.iter().map(|(uid, it)| (*uid, *it)).chain(placed).collect();
        self.shared.addresses.send_if_modified(|known| {
            let changed = **known != addresses;
            *known = Arc::new(addresses);
            changed
        });
        let local = |(uid, record): (&Uid, &Record)| {
            let host_ports = record.host_ports.clone();
            (record.address, LocalPod { uid: *uid, host_ports, veth: record.veth.clone() })
        };
        let local = LocalPods { pods: pods.records.iter().map(local).collect() };
        self.shared.local.send_if_modified(|known| {
            let changed = **known != local;
            *known = Arc::new(local);
            changed
        });
    }
}

impl Pods {
    /// An address for a pod: the one it had before the reboot, or else one that belongs to nobody, not
    /// even in the mind of `others` or of a pod that is yet to come back.
    fn take(&mut self, block: Ipv4Block, uid: Uid, others: BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let former = self.former.remove(&uid);
        let avoided = others.into_iter().chain(self.former.values().copied()).collect();
        let pool = self.pool(block);
        let former = former.filter(|_| pool.of(uid).is_none());
        match former {
            Some(address) if pool.claim(address, uid) => Some(address),
            _ => pool.take(uid, &avoided),
        }
    }

    /// The addresses of the block, without those that pods have from before a restart.
    fn pool(&mut self, block: Ipv4Block) -> &mut AddressPool {
        if self.pool.as_ref().is_none_or(|pool| pool.block() != block) {
            let mut pool = AddressPool::new(block);
            for (uid, record) in &self.records {
                if !pool.claim(record.address, *uid) {
                    let address = record.address;
                    tracing::warn!(pod = %uid, %address, %block, "a pod's address is not of the block");
                }
            }
            self.pool = Some(pool);
        }
        self.pool.as_mut().expect("made above")
    }
}

impl Filler {
    /// Keeps namespaces ready until nobody takes them any more.
    pub(super) async fn run(self) {
        loop {
            // Cancel safe: a permit that is dropped is given back.
            let Ok(place) = self.pool.reserve().await else { return };
            let mtu = *self.mtu.borrow();
            let made = blocking(move || Prepared::make(random()?, mtu)).await;
            match made {
                Some(Ok(prepared)) => {
                    place.send((mtu, prepared));
                    self.tell(None);
                }
                Some(Err(error)) => {
                    self.tell(Some(explain(&error)));
                    tokio::time::sleep(RETRY).await;
                }
                None => return,
            }
        }
    }

    fn tell(&self, trouble: Option<String>) {
        self.trouble.send_if_modified(|known| {
            let changed = *known != trouble;
            if let (true, Some(text)) = (changed, &trouble) {
                tracing::error!("{text}");
            }
            *known = trouble;
            changed
        });
    }
}

/// Random bytes for names and hardware addresses.
pub(super) fn random() -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::EOPNOTSUPP) => {
            "pods get no network: the kernel has no veth links: load them with `modprobe veth`"
                .to_owned()
        }
        Some(nix::libc::EPERM) => {
            "pods get no network: kumquat may not make network namespaces: it needs CAP_SYS_ADMIN \
             and CAP_NET_ADMIN"
                .to_owned()
        }
        _ => format!("pods get no network: a network namespace cannot be made: {error}"),
    }
}

/// The ports of the board that a pod asks for.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod.containers().flat_map(|container| &container.ports);
    let mut ports: Vec<HostPort> = ports
        .filter(|port| port.host_port > 0)
        .filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            let only = port.host_ip.parse().ok().filter(|ip: &Ipv4Addr| !ip.is_unspecified());
            Some((protocol, port.host_port, port.container_port, only))
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_come_back_to_their_addresses_and_nobody_takes_them_meanwhile() {
        let block: Ipv4Block = "10.42.0.0/29".parse().expect("a block");
        let at = |last| Ipv4Addr::new(10, 42, 0, last);
        let uid = |number| Uid::from_random([number; 16]);
        let first = |pod| AddressPool::new(block).take(pod, &BTreeSet::new()).expect("free");
        // Whoever is new would have had the address of one that is yet to come back.
        let (back, late) = (uid(1), uid(2));
        let new = (3..).map(uid).find(|new| first(*new) == at(4)).expect("one of five");
        let mut pods = Pods { former: [(back, at(4)), (late, at(5))].into(), ..Pods::default() };
        let policy: BTreeSet<_> = [at(4), at(5), at(6)].into();
        let given = pods.take(block, new, policy.clone()).expect("free");
        assert!([at(2), at(3)].contains(&given), "{given} is somebody else's");
        assert_eq!(pods.take(block, back, policy.clone()), Some(at(4)), "policies lie on it");
        assert_eq!(pods.take(block, late, policy.clone()), Some(at(5)));
        assert!(pods.former.is_empty());
        let last = [at(2), at(3)].into_iter().find(|it| *it != given);
        assert_eq!(pods.take(block, uid(90), policy.clone()), last);
        assert_eq!(pods.take(block, uid(91), policy), Some(at(6)), "rather than none");
    }

    #[tokio::test]
    async fn only_a_pod_that_still_has_its_place_is_mended() {
        let run = std::env::temp_dir().join(format!("kumquat-mended-{}", std::process::id()));
        let record = |veth: &str| Record {
            address: Ipv4Addr::new(10, 42, 0, 7),
            veth: veth.to_owned(),
            mac: [2; 6],
            host_ports: Vec::new(),
        };
        let uid = Uid::from_random([1; 16]);
        record("kq-lost").save(&run, uid).expect("saved");
        let known = Known {
            block: watch::channel(None).1,
            mtu: watch::channel(1_500).1,
            state: watch::channel(Arc::default()).1,
        };
        let (pods, _filler) =
            PodNetwork::new(&run, known, watch::Sender::default()).expect("a network");
        let veth = || pods.records()[&uid].veth.clone();
        assert!(!pods.mended(uid, "kq-older", record("kq-late")), "it has another place since");
        assert_eq!(veth(), "kq-lost");
        assert!(pods.mended(uid, "kq-lost", record("kq-new")));
        assert_eq!(veth(), "kq-new");
        assert_eq!(record::all(&run).expect("read"), [(uid, record("kq-new"))]);
        // Without room in the run-dir it is mended all the same, and once.
        std::fs::remove_dir_all(run.join("pods")).expect("removable");
        std::fs::write(run.join("pods"), "").expect("in the way");
        assert!(pods.mended(uid, "kq-new", record("kq-newer")));
        assert_eq!(veth(), "kq-newer");
        std::fs::remove_file(run.join("pods")).expect("removable");
        pods.release(uid).await;
        assert!(!pods.mended(uid, "kq-newer", record("kq-late")), "it is gone");
        assert!(pods.records().is_empty());
        assert_eq!(record::all(&run).expect("read"), []);
        std::fs::remove_dir_all(run).expect("removable");
    }

    #[test]
    fn host_ports_are_read() {
        let pod = Pod::parse(
            br#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","ports":[
                {"containerPort":80,"hostPort":8080},
                {"containerPort":53,"hostPort":53,"protocol":"UDP","hostIP":"192.0.2.7"},
                {"containerPort":9,"hostPort":9,"hostIP":"0.0.0.0"},
                {"containerPort":81}]}]}}"#,
        )
        .expect("a pod");
        let only = Some(Ipv4Addr::new(192, 0, 2, 7));
        let expected = [
            (Protocol::Tcp, 9, 9, None),
            (Protocol::Tcp, 8_080, 80, None),
            (Protocol::Udp, 53, 53, only),
        ];
        assert_eq!(host_ports(&pod), expected);
    }
}
