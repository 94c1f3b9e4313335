//! What a board may say of itself in its Node and in the statuses of its pods.
//!
//! Addresses become endpoints, routes and rules of all boards, and labels decide where pods go, so a
//! board must not be able to take those of others: a pod's address lies in its board's block (or is
//! the board's, for `hostNetwork`), a board's is nobody else's and in neither range of the cluster, and
//! labels are those that Kubernetes lets kubelets set (`NodeRestriction`).
//!
//! What is refused is taken out; everything else of the message counts. Deliberately absent: a proof
//! that the board can be reached where it says, which DNS names or a broker in between would break.

use std::net::Ipv4Addr;

use logic::world::World;
use model::network::Ipv4Block;
use model::view::PodView;
use model::wire::{PodStatusV1, StatusV1};
use serde_json::{Map, Value};

use super::session::Session;

/// Labels in domains of Kubernetes that a kubelet sets
/// (`staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go`), and the role that `kubectl get
/// nodes` shows.
const LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node-role.kubernetes.io/control-plane",
];
/// Domains of Kubernetes below which a kubelet is free.
const LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESERVED_DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// What was taken out of a message.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// The first of it, for the log.
    pub(super) why: Option<String>,
    /// It may be right in a while: the board is to be asked again.
    pub(super) again: bool,
}

impl Refused {
    fn note(&mut self, again: bool, why: impl FnOnce() -> String) {
        self.why.get_or_insert_with(why);
        self.again |= again;
    }
}

/// What is known of a board's own addresses.
struct Own {
    block: Option<Ipv4Block>,
    address: Option<Ipv4Addr>,
}

impl Own {
    fn may_have(&self, pod: &PodView, address: Ipv4Addr) -> bool {
        match pod.host_network {
            true => self.address == Some(address),
            false => self.block.is_some_and(|block| block.contains(address)),
        }
    }
}

impl Session {
    /// The first pod of a status message that is another board's.
    pub(super) fn foreign_pod(&self, status: &StatusV1) -> Option<String> {
        let world = self.views.world();
        let foreign = |pod: &&PodStatusV1| {
            let found = world.pod(&pod.namespace, &pod.name);
            found.is_some_and(|found| found.meta.uid == pod.uid && *found.node != *self.name())
        };
        let pod = status.pods.iter().find(foreign)?;
        Some(format!("status of pod {}/{}", pod.namespace, pod.name))
    }

    /// Takes out of a board's Node what is not the board's to say.
    pub(super) fn judge_node(&self, node: &mut Value) -> Refused {
        let mut refused = Refused::default();
        if let Some(labels) = node["metadata"]["labels"].as_object_mut() {
            labels.retain(|label, _| {
                let may = may_set(label);
                if !may {
                    refused.note(false, || format!("label {label}"));
                }
                may
            });
        }
        self.judge_addresses(&mut node["status"], &mut refused);
        refused
    }

    /// Takes out of a status message what is not the board's to say.
    pub(super) fn judge_status(&self, status: &mut StatusV1) -> Refused {
        let mut refused = Refused::default();
        let mut own = {
            let world = self.views.world();
            let node = world.node(self.name());
            Own {
                block: node.and_then(|node| node.pods),
                address: node.and_then(|node| node.address),
            }
        };
        if let Ok(mut said) = serde_json::from_slice::<Value>(&status.node_status)
            && said["addresses"].is_array()
        {
            if self.judge_addresses(&mut said, &mut refused) {
                status.node_status = said.to_string().into();
            }
            own.address = internal(&said).next();
        }
        let world = self.views.world();
        for pod in status.pods.iter_mut().filter(|pod| !pod.removable) {
            let known = world.pod(&pod.namespace, &pod.name);
            let known = known.filter(|it| it.meta.uid == pod.uid && *it.node == *self.name());
            let said = serde_json::from_slice::<Value>(&pod.status).ok();
            let (Some(known), Some(Value::Object(mut said))) = (known, said) else { continue };
            if judge_pod(&mut said, known, &own, &mut refused) {
                pod.status = Value::Object(said).to_string().into();
            }
        }
        refused
    }

    /// Takes internal addresses out of a Node's status that cannot be the board's; whether there were.
    fn judge_addresses(&self, status: &mut Value, refused: &mut Refused) -> bool {
        let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) else {
            return false;
        };
        let count = addresses.len();
        let world = self.views.world();
        addresses.retain(|entry| {
            if entry["type"] != "InternalIP" {
                return true;
            }
            let text = entry["address"].as_str().unwrap_or_default();
            let Ok(address) = text.parse::<Ipv4Addr>() else { return true };
            let Some((again, why)) = self.wrong(&world, address) else { return true };
            refused.note(again, || format!("its address {address}: {why}"));
            false
        });
        addresses.len() != count
    }

    /// Why an address cannot be the board's, and whether that may pass.
    fn wrong(&self, world: &World, address: Ipv4Addr) -> Option<(bool, String)> {
        // This process is its own witness; a board without a network is at its loopback.
        let local = address.is_loopback() && self.key().is_some();
        let nobodys = address.is_unspecified() || address.is_multicast() || address.is_broadcast();
        if local || nobodys {
            return Some((false, "no board can be reached there".to_owned()));
        }
        for (what, range) in [("pods", self.pod_range()), ("services", Some(self.service_range()))]
        {
            if range.is_some_and(|range| range.contains(address)) {
                return Some((false, format!("it lies in the range of {what}")));
            }
        }
        if address.is_loopback() {
            return None;
        }
        // DHCP gives on what a board that is gone has had.
        let holds = world.nodes().find(|node| {
            node.ready && node.address == Some(address) && *node.meta.name != *self.name()
        });
        holds.map(|node| (true, format!("board {} has it", node.meta.name)))
    }
}

/// Takes addresses out of a pod's status that cannot be the pod's; whether there were.
fn judge_pod(
    said: &mut Map<String, Value>,
    known: &PodView,
    own: &Own,
    refused: &mut Refused,
) -> bool {
    let about = || format!("of pod {}/{}", known.meta.namespace, known.meta.name);
    let may = |address| own.may_have(known, address);
    let mut changed = false;
    if !all_addresses(said, "podIP", "podIPs", &may) {
        changed = true;
        // A Node that has just come back has no block yet; its pods stay where they were.
        let waits = !known.host_network && own.block.is_none();
        refused.note(waits || known.host_network, || format!("addresses {}", about()));
        match known.address.filter(|_| waits) {
            Some(before) => {
                said.insert("podIP".into(), before.to_string().into());
                said.insert("podIPs".into(), serde_json::json!([{ "ip": before.to_string() }]));
            }
            None => ["podIP", "podIPs"].iter().for_each(|field| drop(said.remove(*field))),
        }
    }
    if !all_addresses(said, "hostIP", "hostIPs", &|address| own.address == Some(address)) {
        changed = true;
        // Its Node may be about to say the same.
        refused.note(true, || format!("addresses of the host {}", about()));
        ["hostIP", "hostIPs"].iter().for_each(|field| drop(said.remove(*field)));
    }
    changed
}

/// Whether all addresses of a field and of its list are such; what is empty or not there is.
fn all_addresses(
    said: &Map<String, Value>,
    one: &str,
    list: &str,
    may: &dyn Fn(Ipv4Addr) -> bool,
) -> bool {
    let items = said.get(list).and_then(Value::as_array).into_iter().flatten();
    let mut texts = said.get(one).into_iter().chain(items.map(|item| &item["ip"]));
    texts.all(|text| match text.as_str() {
        Some("") => true,
        Some(text) => text.parse().is_ok_and(may),
        None => text.is_null(),
    })
}

/// The internal addresses of a Node's status.
fn internal(status: &Value) -> impl Iterator<Item = Ipv4Addr> {
    let entries = status["addresses"].as_array().into_iter().flatten();
    let entries = entries.filter(|entry| entry["type"] == "InternalIP");
    entries.filter_map(|entry| entry["address"].as_str()?.parse().ok())
}

/// Whether a board may set a label of its Node.
fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| {
        let rest = domain.strip_suffix(parent);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let free = |parent: &&str| below(parent);
    LABELS.contains(&label) || LABEL_DOMAINS.iter().any(free) || !RESERVED_DOMAINS.iter().any(free)
}

#[cfg(test)]
mod tests {
    use model::ids::{ObjectKey, Uid, Version};
    use model::view::{View, kind};

    use super::*;

    #[test]
    fn a_board_labels_itself_as_a_kubelet_may() {
        let check = |label: &str, expected: bool| assert_eq!(may_set(label), expected, "{label}");
        check("kubernetes.io/hostname", true);
        check("kumquat.dev/board", true);
        check("disk", true);
        check("example.org/disk", true);
        check("notkubernetes.io/disk", true);
        check("node.kubernetes.io/any", true);
        check("x.kubelet.kubernetes.io/any", true);
        check("node-restriction.kubernetes.io/secret", false);
        check("a.node-restriction.kubernetes.io/secret", false);
        check("node-role.kubernetes.io/vault", false);
        check("kubernetes.io/other", false);
        check("k8s.io/other", false);
        check("kops.k8s.io/instancegroup", false);
    }

    #[test]
    fn a_pod_keeps_its_address_while_its_node_has_no_block() {
        let body = br#"{"metadata":{},"spec":{"nodeName":"pi-1"},"status":{"podIP":"10.42.0.5"}}"#;
        let key =
            ObjectKey { kind: kind::PODS, namespace: "default".to_owned(), name: "web".to_owned() };
        let view = View::parse(&key, Version(1), Uid([1; 16]), body).expect("a pod");
        let View::Pod(known) = view else { panic!("{view:?}") };
        let mut own = Own { block: None, address: None };
        let judge = |own: &Own, address: &str| {
            let mut refused = Refused::default();
            let said = serde_json::json!({ "podIP": address, "podIPs": [{ "ip": address }] });
            let Value::Object(mut said) = said else { panic!("an object") };
            judge_pod(&mut said, &known, own, &mut refused);
            (said.get("podIP").cloned(), refused.again)
        };
        let before = Some(Value::from("10.42.0.5"));
        assert_eq!(judge(&own, "10.42.0.6"), (before.clone(), true));
        own.block = "10.42.0.0/25".parse().ok();
        assert_eq!(judge(&own, "10.42.0.6"), (Some(Value::from("10.42.0.6")), false));
        assert_eq!(judge(&own, "10.42.0.133"), (None, false));
    }
}
