//! The view of a NetworkPolicy.

use serde::Deserialize;
use serde_json::Value;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::selector::{RawSelector, Selector};
use super::service::TargetPort;
use crate::network::{Ipv4Block, Protocol};

/// A NetworkPolicy.
#[derive(Clone, Debug)]
pub struct NetworkPolicyView {
    /// Metadata.
    pub meta: Meta,
    /// The pods of its namespace that it applies to.
    pub pods: Selector,
    /// What may come in; `None` when it says nothing about that.
    pub ingress: Option<Box<[PolicyRule]>>,
    /// What may go out; `None` when it says nothing about that.
    pub egress: Option<Box<[PolicyRule]>>,
}

/// Traffic that a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The other side is any of these; empty for everybody.
    pub peers: Box<[PolicyPeer]>,
    /// Destination ports, any of these; empty for all.
    pub ports: Box<[PolicyPort]>,
}

/// The other side of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// Of the namespaces with these labels; `None` for the policy's own.
        namespaces: Option<Selector>,
        /// With these labels.
        pods: Selector,
    },
    /// Addresses, without the blocks that are excepted.
    Block(Ipv4Block, Box<[Ipv4Block]>),
    /// Addresses that are not IPv4: nobody here has one.
    Nobody,
}

/// Destination ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// Their protocol.
    pub protocol: Protocol,
    /// The first; `None` for all.
    pub port: Option<TargetPort>,
    /// The last, where there is more than one.
    pub end: Option<u16>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default, deserialize_with = "null_as_empty")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    pod_selector: Option<RawSelector>,
    #[serde(deserialize_with = "null_as_empty")]
    policy_types: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    ingress: Vec<Rule>,
    #[serde(deserialize_with = "null_as_empty")]
    egress: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rule {
    #[serde(alias = "to", deserialize_with = "null_as_empty")]
    from: Vec<Peer>,
    #[serde(deserialize_with = "null_as_empty")]
    ports: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    pod_selector: Option<RawSelector>,
    namespace_selector: Option<RawSelector>,
    ip_block: Option<Block>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Block {
    cidr: Box<str>,
    #[serde(deserialize_with = "null_as_empty")]
    except: Vec<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    protocol: Option<Box<str>>,
    port: Value,
    end_port: Option<u16>,
}

impl Rule {
    /// `None` when none of its ports can be understood: without any it would allow all.
    fn view(self) -> Option<PolicyRule> {
        let limits_ports = !self.ports.is_empty();
        let ports: Box<[PolicyPort]> = self.ports.into_iter().filter_map(Port::view).collect();
        if limits_ports && ports.is_empty() {
            return None;
        }
        Some(PolicyRule { peers: self.from.into_iter().map(Peer::view).collect(), ports })
    }
}

impl Peer {
    fn view(self) -> PolicyPeer {
        if let Some(block) = self.ip_block {
            let Ok(cidr) = block.cidr.parse() else { return PolicyPeer::Nobody };
            let except = block.except.iter().filter_map(|text| text.parse().ok()).collect();
            return PolicyPeer::Block(cidr, except);
        }
        // Without a selector of pods it is all pods of those namespaces.
        let pods = self.pod_selector.unwrap_or_default();
        PolicyPeer::Pods {
            namespaces: self.namespace_selector.map(|raw| Selector::from(Some(raw))),
            pods: Selector::from(Some(pods)),
        }
    }
}

impl Port {
    fn view(self) -> Option<PolicyPort> {
        let port = match &self.port {
            Value::Null => None,
            port => Some(TargetPort::parse(port)?),
        };
        let protocol = Protocol::parse(self.protocol.as_deref())?;
        Some(PolicyPort { protocol, port, end: self.end_port })
    }
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<NetworkPolicyView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let spec = raw.spec;
    let listed = |name: &str| spec.policy_types.iter().any(|listed| &**listed == name);
    // Without a list of types: ingress always, egress when there are rules for it.
    let has_types = !spec.policy_types.is_empty();
    let says_ingress = if has_types { listed("Ingress") } else { true };
    let says_egress = if has_types { listed("Egress") } else { !spec.egress.is_empty() };
    let rules = |rules: Vec<Rule>| rules.into_iter().filter_map(Rule::view).collect();
    Ok(NetworkPolicyView {
        meta: raw.metadata.view(identity),
        pods: Selector::from(Some(spec.pod_selector.unwrap_or_default())),
        ingress: says_ingress.then(|| rules(spec.ingress)),
        egress: says_egress.then(|| rules(spec.egress)),
    })
}
