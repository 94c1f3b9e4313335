//! Keeps the packet filter of this board at what the board knows: the driver around `logic::network::rules`.
//!
//! ```text
//!  NetState ─┐
//!  LocalPods ┼─▶ Planner ──changes──▶ Nft ──▶ kernel ──▶ forgotten: UDP connections, clients
//!  block, DNS┘      ▲ whole, when others have changed the table ◀── Monitor ◀──┘
//! ```
//! The first table of a start waits a moment for what the other parts are about to say, because the one
//! of the process before still serves meanwhile. Whatever fails is told with its remedy and tried again;
//! the board goes on. The table stays when the role ends, for pods stay too; [`remove`] takes it away.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use logic::network::address_pool::own_address;
use logic::network::local::LocalPods;
use logic::network::rules::{Changes, Frontend, Planner, Site};
use model::network::{Ipv4Block, NetState};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::io::net::nft::{Disturbance, Monitor, Nft, NftError, Passage, forget};
use crate::io::seldom::Seldom;

/// Place of the name service in the range of services.
const DNS_PLACE: u32 = 10;
/// How long the first table waits for the block of pods and the name service.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two repairs: whoever fights for the table must not take the board's time.
const REPAIR_PAUSE: Duration = Duration::from_millis(200);
/// After a packet filter that cannot be used, doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Lines about what is refused, in a row.
const LINES_MAX: u32 = 8;
/// And then one in this time.
const LINES_EVERY: Duration = Duration::from_secs(30);

/// What the rules are made of, and who is told what is wrong.
#[derive(Debug)]
pub struct ProxyLoop {
    /// What the board knows; `block` and `dns` are filled in here.
    pub site: Site,
    /// Services, boards, policies.
    pub state: watch::Receiver<Arc<NetState>>,
    /// This board's pods.
    pub local: watch::Receiver<Arc<LocalPods>>,
    /// The block of its pods.
    pub block: watch::Receiver<Option<Ipv4Block>>,
    /// Where names are answered.
    pub names: watch::Receiver<Option<SocketAddrV4>>,
    /// What this board lacks, in a sentence.
    pub trouble: watch::Sender<Option<String>>,
}

/// Removes all rules of this network namespace. Blocking; idempotent.
///
/// # Errors
/// The kernel refuses.
pub fn remove() -> Result<(), NftError> {
    Nft::open()?.remove()
}

impl ProxyLoop {
    /// Runs until one of the channels closes.
    ///
    /// # Errors
    /// A part of it broke.
    pub async fn run(mut self) -> io::Result<()> {
        self.settle().await;
        let mut pause = RETRY.0;
        loop {
            match self.serve(&mut pause).await {
                Ok(()) => return Ok(()),
                Err(ProxyError::Filter(error)) => self.tell(Some(&error)),
                Err(ProxyError::Broken(error)) => return Err(error),
            }
            // However much changes, the kernel is not asked more often.
            tokio::time::sleep(RETRY.0).await;
            // Cancel safety: all lose nothing.
            let changed = tokio::select! {
                changed = self.state.changed() => changed,
                changed = self.local.changed() => changed,
                changed = self.block.changed() => changed,
                changed = self.names.changed() => changed,
                () = tokio::time::sleep(pause) => Ok(()),
            };
            if changed.is_err() {
                return Ok(());
            }
            pause = RETRY.1.min(2 * pause);
        }
    }

    async fn settle(&mut self) {
        let Self { block, names, .. } = self;
        let known = async {
            let _closed = block.wait_for(Option::is_some).await.is_ok();
            let _closed = names.wait_for(Option::is_some).await.is_ok();
        };
        let _late = timeout(SETTLE, known).await;
    }

    /// Keeps one table until a channel closes; the next failure is the first of its row when it once
    /// stood.
    async fn serve(&mut self, pause: &mut Duration) -> Result<(), ProxyError> {
        let mut filter = Filter::open(self.site_now())?;
        let mut monitor = filter.nft.monitor()?;
        filter = self.apply(filter, true).await?;
        self.tell(None);
        *pause = RETRY.0;
        let mut repaired = Instant::now();
        loop {
            let (seen, site) = match self.wait(&mut monitor).await? {
                Woken::Closed => return Ok(()),
                Woken::Disturbed(seen) => {
                    tokio::time::sleep_until(repaired + REPAIR_PAUSE).await;
                    repaired = Instant::now();
                    (seen, self.site_now())
                }
                Woken::Changed => (Disturbance::default(), self.site_now()),
            };
            if site != *filter.planner.site() {
                filter.planner = Planner::new(site);
                filter = self.apply(filter, true).await?;
            } else if seen.table {
                tracing::warn!("somebody else changed the rules of services; they are made anew");
                filter = self.apply(filter, true).await?;
            } else {
                filter.passage |= seen.passage;
                filter = self.apply(filter, false).await?;
            }
        }
    }

    async fn wait(&mut self, monitor: &mut Monitor) -> Result<Woken, ProxyError> {
        // Cancel safety: channels and the monitor lose nothing that concerns us.
        let changed = tokio::select! {
            changed = self.state.changed() => changed,
            changed = self.local.changed() => changed,
            changed = self.block.changed() => changed,
            changed = self.names.changed() => changed,
            seen = monitor.changed() => {
                return seen.map(Woken::Disturbed).map_err(ProxyError::Broken);
            }
        };
        Ok(if changed.is_ok() { Woken::Changed } else { Woken::Closed })
    }

    fn site_now(&mut self) -> Site {
        let block = *self.block.borrow_and_update();
        let names = *self.names.borrow_and_update();
        let service = self.site.service_range.nth(DNS_PLACE);
        // Answered at the board's own address only: of another one, rules know nothing.
        let answered = names.filter(|names| Some(*names.ip()) == block.map(own_address));
        let dns = service.zip(answered.map(|names| names.port()));
        Site { block, dns, ..self.site.clone() }
    }

    /// Brings the kernel to what is known, off the threads that serve others.
    async fn apply(&mut self, mut filter: Filter, whole: bool) -> Result<Filter, ProxyError> {
        let state = Arc::clone(&self.state.borrow_and_update());
        let local = Arc::clone(&self.local.borrow_and_update());
        let applied = spawn_blocking(move || filter.apply(state, local, whole).map(|()| filter));
        let applied = applied.await.map_err(|error| ProxyError::Broken(error.into()))?;
        Ok(applied?)
    }

    fn tell(&self, error: Option<&NftError>) {
        let text = error.map(|error| {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            let remedy = error.remedy().map(|remedy| format!("; {remedy}"));
            format!("services: {error}{}{}", cause.unwrap_or_default(), remedy.unwrap_or_default())
        });
        self.trouble.send_if_modified(|known| {
            let changed = *known != text;
            if let (true, Some(text)) = (changed, &text) {
                tracing::error!(problem = %text, "services are not reachable from this board");
            }
            *known = text;
            changed
        });
    }
}

enum Woken {
    Changed,
    Disturbed(Disturbance),
    Closed,
}

enum ProxyError {
    Filter(NftError),
    Broken(io::Error),
}

impl From<NftError> for ProxyError {
    fn from(error: NftError) -> Self {
        Self::Filter(error)
    }
}

/// The kernel's rules and what they were made from.
struct Filter {
    nft: Nft,
    planner: Planner,
    /// Chains of others have to be looked at.
    passage: bool,
    /// Chains that were reported.
    shut: Vec<String>,
    /// Lines about what is refused.
    lines: Seldom,
}

impl Filter {
    fn open(site: Site) -> Result<Self, NftError> {
        Ok(Self {
            nft: Nft::open()?,
            planner: Planner::new(site),
            passage: true,
            shut: Vec::new(),
            lines: Seldom::bursts(LINES_MAX, LINES_EVERY),
        })
    }

    fn apply(
        &mut self,
        state: Arc<NetState>,
        local: Arc<LocalPods>,
        whole: bool,
    ) -> Result<(), NftError> {
        let changes = self.planner.update(state, local);
        self.tell_refused(&changes);
        let refused =
            if whole || changes.is_empty() { None } else { self.nft.change(&changes).err() };
        if let Some(error) = &refused {
            tracing::warn!(%error, "rules are made anew after a change that was refused");
        }
        if whole || refused.is_some() {
            self.nft.replace(&self.planner.rules())?;
        }
        self.forget(&changes, whole || refused.is_some());
        if std::mem::take(&mut self.passage) || whole {
            self.let_through();
        }
        Ok(())
    }

    fn tell_refused(&self, changes: &Changes) {
        for (who, frontend) in &changes.refused {
            let Some(left_out) = self.lines.line() else { continue };
            tracing::warn!(
                %who,
                port = %frontend,
                left_out,
                "a port of kumquat itself, or an address that only the cluster gives, is not taken over: \
                 choose another"
            );
        }
    }

    /// Takes back what the kernel remembers of targets that are gone.
    fn forget(&self, changes: &Changes, whole: bool) {
        let unkept: BTreeSet<Frontend> = changes.unkept();
        if !unkept.is_empty() {
            let forgotten = self.nft.forget_clients(|frontend, target| {
                unkept.contains(frontend) && !self.planner.leads_to(frontend, target)
            });
            if let Err(error) = forgotten {
                tracing::warn!(%error, "clients may be led to an endpoint that is gone");
            }
        }
        let mut doubtful = changes.doubtful();
        doubtful.extend(self.planner.cut_off(changes));
        let forgotten = match whole {
            true => forget(|flow| self.planner.is_astray(flow)),
            false if doubtful.is_empty() => Ok(0),
            false => forget(|flow| self.planner.is_stale(&doubtful, flow)),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%error, "connections may lead to an endpoint that is gone");
        }
    }

    fn let_through(&mut self) {
        let site = self.planner.site();
        let passage = Passage::new(site.pod_range, site.block.map(own_address));
        match self.nft.let_through(&passage) {
            Ok(shut) => {
                for chain in shut.iter().filter(|chain| !self.shut.contains(chain)) {
                    tracing::warn!(
                        chain,
                        pods = %site.pod_range,
                        "a chain may drop what pods send: accept the pods' addresses in it"
                    );
                }
                self.shut = shut;
            }
            Err(error) => tracing::warn!(%error, "pods may not pass this board"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use std::process::{Child, Command, Stdio};

    use model::network::{NetEndpoint, NetPort, NetService};

    use super::*;
    use crate::io::net::{create, inside, remove as remove_namespace};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn listed() -> io::Result<String> {
        let output = Command::new("nft").args(["list", "table", "inet", "kumquat"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until `nft` shows a text; how long that took.
    async fn shown(text: &str) -> io::Result<Duration> {
        let begun = Instant::now();
        while !listed()?.contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text} is not there:\n{}", listed()?);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(begun.elapsed())
    }

    fn state(endpoint: Ipv4Addr) -> Arc<NetState> {
        let service = NetService {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            cluster_ip: Some(Ipv4Addr::new(10, 43, 0, 7)),
            ports: vec![NetPort { port: 80, ..NetPort::default() }],
            endpoints: vec![NetEndpoint {
                address: endpoint,
                ready: true,
                ports: vec![8080],
                ..NetEndpoint::default()
            }],
            ..NetService::default()
        };
        let services = [(service.key().into(), Arc::new(service))].into();
        Arc::new(NetState { services, ..NetState::default() })
    }

    fn block(text: &str) -> Ipv4Block {
        text.parse().expect("a block")
    }

    fn here() -> Site {
        Site::new("here", block("10.42.0.0/16"), block("10.43.0.0/16"))
    }

    async fn trial() -> io::Result<()> {
        let (known, state_known) = watch::channel(state(Ipv4Addr::new(10, 42, 0, 2)));
        let (_local, local) = watch::channel(Arc::default());
        let (blocks, block_known) = watch::channel(Some(block("10.42.0.0/25")));
        let (names, names_known) = watch::channel(None);
        let (trouble, troubled) = watch::channel(None);
        let proxy = ProxyLoop {
            site: here(),
            state: state_known,
            local,
            block: block_known,
            names: names_known,
            trouble,
        };
        let running = tokio::spawn(proxy.run());
        names.send_replace(Some(SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 1), 1053)));
        shown("10.43.0.7 . tcp . 80 . 0x00000000 : 10.42.0.2 . 8080").await?;
        shown("10.43.0.10 . udp . 53 . 0x00000000 : 10.42.0.1 . 1053").await?;
        known.send_replace(state(Ipv4Addr::new(10, 42, 0, 3)));
        shown("10.42.0.3 . 8080").await?;
        for attack in [
            ["flush", "ruleset", "", "", ""],
            ["delete", "table", "inet", "kumquat", ""],
            ["flush", "chain", "inet", "kumquat", "prerouting"],
        ] {
            let words = attack.iter().filter(|word| !word.is_empty());
            assert!(Command::new("nft").args(words).status()?.success());
            shown("10.42.0.3 . 8080").await?;
            let services = shown("vmap @services").await?;
            let took = services + shown("udp dport 8472 jump tunnel").await?;
            assert!(took < Duration::from_secs(1), "{attack:?} repaired after {took:?}");
        }
        blocks.send_replace(Some(block("10.42.0.128/25")));
        shown("10.42.0.130 . 10.42.0.130").await?;
        assert_eq!(*troubled.borrow(), None);
        drop(known);
        let ended = timeout(PATIENCE, running).await.expect("ends with its channel");
        ended.expect("no panic")?;
        remove().expect("removed");
        assert_eq!(listed()?, "");
        Ok(())
    }

    /// A program that alone may change our table, until its input ends.
    fn usurper() -> io::Result<Child> {
        let mut nft =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let input = nft.stdin.as_mut().expect("piped");
        input.write_all(b"add table inet kumquat { flags owner; }\n")?;
        Ok(nft)
    }

    async fn trial_of_patience() -> io::Result<()> {
        let mut nft = usurper()?;
        shown("flags owner").await?;
        let (_known, state) = watch::channel(state(Ipv4Addr::new(10, 42, 0, 2)));
        let (_local, local) = watch::channel(Arc::default());
        let (_block, block) = watch::channel("10.42.0.0/25".parse().ok());
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 1), 1053);
        let (_names, names) = watch::channel(Some(address));
        let (trouble, mut troubled) = watch::channel(None);
        let proxy = ProxyLoop { site: here(), state, local, block, names, trouble };
        let running = tokio::spawn(proxy.run());
        let told = timeout(PATIENCE, troubled.wait_for(Option::is_some)).await;
        assert!(told.is_ok_and(|told| told.is_ok()), "it is not ours to change");
        drop(nft.stdin.take());
        nft.wait()?;
        let took = shown("vmap @services").await?;
        assert!(took < Duration::from_secs(2), "it was free for {took:?}");
        let well = timeout(PATIENCE, troubled.wait_for(Option::is_none)).await;
        assert!(well.is_ok_and(|well| well.is_ok()));
        running.abort();
        remove().map_err(io::Error::other)
    }

    #[test]
    fn one_refusal_is_soon_over() {
        run("patience", trial_of_patience);
    }

    #[test]
    fn rules_follow_what_is_known_and_are_repaired_within_a_second() {
        run("follow", trial);
    }

    fn run<F: Future<Output = io::Result<()>>>(name: &str, trial: impl FnOnce() -> F + Send) {
        let name = format!("kumquat-proxy-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        if create(&path).is_err() || Command::new("nft").arg("--version").output().is_err() {
            println!("not run: this needs network namespaces and nft");
            return;
        }
        let outcome = inside(&path, || {
            // Its threads are born in the namespace.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(trial())
        });
        remove_namespace(&path).expect("namespace removed");
        outcome.expect("trial");
    }
}
