//! One node while pods are placed: what is taken, and whether a pod fits.

use std::collections::HashMap;

use model::ids::Uid;
use model::view::{HostPort, NodeView, PodView, Resources, Scheduling, Taint, TaintEffect};

/// What a container without a request counts as when nodes are compared (upstream's
/// `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const CPU_MILLI_DEFAULT: u64 = 100;
const MEMORY_BYTES_DEFAULT: u64 = 200 * 1024 * 1024;

/// A node and what its pods take.
#[derive(Debug)]
pub(super) struct Board<'a> {
    node: &'a NodeView,
    taken: Resources,
    /// Like `taken`, but a pod that asks for nothing counts too.
    pub(super) weighed_cpu_milli: u64,
    pub(super) weighed_memory_bytes: u64,
    ports: Vec<HostPort>,
    /// Pods by the uid of their controller.
    pub(super) of_owner: HashMap<Uid, usize>,
}

/// Why a pod does not fit.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In upstream's words.
    pub(super) reasons: Vec<String>,
    /// Removing other pods would not help.
    pub(super) final_for_now: bool,
}

impl Refusal {
    pub(super) fn one(reason: impl Into<String>, final_for_now: bool) -> Result<(), Self> {
        Err(Self { reasons: vec![reason.into()], final_for_now })
    }
}

impl<'a> Board<'a> {
    pub(super) fn new(node: &'a NodeView, pods: impl Iterator<Item = &'a PodView>) -> Self {
        let mut board = Self {
            node,
            taken: Resources::default(),
            weighed_cpu_milli: 0,
            weighed_memory_bytes: 0,
            ports: Vec::new(),
            of_owner: HashMap::new(),
        };
        pods.filter(|pod| !pod.finished()).for_each(|pod| board.take(pod));
        board
    }

    pub(super) fn name(&self) -> &'a str {
        &self.node.meta.name
    }

    pub(super) fn node(&self) -> &'a NodeView {
        self.node
    }

    /// Counts a pod in.
    pub(super) fn take(&mut self, pod: &PodView) {
        self.taken.add(&pod.requests);
        self.taken.pods += 1;
        let (cpu_milli, memory_bytes) = weighed(pod);
        self.weighed_cpu_milli += cpu_milli;
        self.weighed_memory_bytes += memory_bytes;
        self.ports.extend(pod.host_ports.iter().cloned());
        if let Some(owner) = pod.meta.controller().filter(|_| pod.meta.deleting.is_none()) {
            *self.of_owner.entry(owner.uid).or_default() += 1;
        }
    }

    /// Whether the pod may run here, in the order of upstream's filter plugins.
    pub(super) fn check(&self, pod: &PodView, wish: &Scheduling) -> Result<(), Refusal> {
        let cordoned = no_schedule("node.kubernetes.io/unschedulable");
        if self.node.unschedulable && !bears(pod, &cordoned) {
            return Refusal::one("node(s) were unschedulable", true);
        }
        if let Some((key, value)) = self.unborne_taint(pod) {
            let reason = format!("node(s) had untolerated taint {{{key}: {value}}}");
            return Refusal::one(reason, true);
        }
        if !self.matches_affinity(wish) {
            return Refusal::one("node(s) didn't match Pod's node affinity/selector", true);
        }
        if pod.host_ports.iter().any(|wanted| self.ports.iter().any(|taken| clash(wanted, taken))) {
            return Refusal::one(
                "node(s) didn't have free ports for the requested pod ports",
                false,
            );
        }
        self.check_resources(&pod.requests)
    }

    /// Name and value of a taint that keeps the pod away.
    pub(super) fn unborne_taint(&self, pod: &PodView) -> Option<(&str, &str)> {
        const NOT_READY: &str = "node.kubernetes.io/not-ready";
        let hard = |taint: &&Taint| taint.effect != TaintEffect::PreferNoSchedule;
        let found = self.node.taints.iter().find(|taint| hard(taint) && !bears(pod, taint));
        if let Some(taint) = found {
            return Some((&taint.key, &taint.value));
        }
        let unready = !self.node.ready && !bears(pod, &no_schedule(NOT_READY));
        unready.then_some((NOT_READY, ""))
    }

    /// The place that it stands in: its value of a label.
    pub(super) fn place(&self, topology_key: &str) -> Option<&'a str> {
        self.node.meta.labels.get(topology_key)
    }

    pub(super) fn matches_affinity(&self, wish: &Scheduling) -> bool {
        let labels = &self.node.meta.labels;
        let selected =
            wish.node_selector.iter().all(|(name, value)| labels.get(name) == Some(value));
        let term = |terms: &[model::view::NodeTerm]| {
            terms.iter().any(|term| term.matches(self.name(), labels))
        };
        selected && wish.required.as_deref().is_none_or(term)
    }

    fn check_resources(&self, wanted: &Resources) -> Result<(), Refusal> {
        let has = &self.node.allocatable;
        let mut refusal = Refusal { reasons: Vec::new(), final_for_now: false };
        if self.taken.pods + 1 > has.pods {
            refusal.reasons.push("Too many pods".into());
        }
        let taken = &self.taken;
        let mut compare = |name: &str, wanted: u64, taken: u64, has: u64| {
            if wanted > 0 && wanted > has.saturating_sub(taken) {
                refusal.reasons.push(format!("Insufficient {name}"));
                refusal.final_for_now |= wanted > has;
            }
        };
        compare("cpu", wanted.cpu_milli, taken.cpu_milli, has.cpu_milli);
        compare("memory", wanted.memory_bytes, taken.memory_bytes, has.memory_bytes);
        let ephemeral = (wanted.ephemeral_bytes, taken.ephemeral_bytes, has.ephemeral_bytes);
        compare("ephemeral-storage", ephemeral.0, ephemeral.1, ephemeral.2);
        for (name, amount) in &wanted.other {
            compare(name, *amount, taken.other(name), has.other(name));
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

/// What a pod counts as when nodes are compared.
pub(super) fn weighed(pod: &PodView) -> (u64, u64) {
    let or = |amount: u64, default: u64| if amount == 0 { default } else { amount };
    (
        or(pod.requests.cpu_milli, CPU_MILLI_DEFAULT),
        or(pod.requests.memory_bytes, MEMORY_BYTES_DEFAULT),
    )
}

fn bears(pod: &PodView, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|it| it.bears(taint))
}

fn no_schedule(key: &str) -> Taint {
    Taint { key: key.into(), value: "".into(), effect: TaintEffect::NoSchedule, time_added: None }
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    let any = |port: &HostPort| &*port.address == "0.0.0.0";
    one.port == other.port
        && one.protocol == other.protocol
        && (one.address == other.address || any(one) || any(other))
}
