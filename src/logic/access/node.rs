//! What is a board's own: as upstream's node authoriser with `AuthorizeNodeWithSelectors`
//! (`plugin/pkg/auth/authorizer/node`), narrowed to what a board could need of the API.
//!
//! A board may read its own Node, the pods bound to it, and the Secrets and ConfigMaps that those pods
//! name; keep its own Lease; report statuses of its pods and its Node (what they may say is judged where
//! the object is known); and ask for tokens of the accounts that its pods run as.

use model::access::{NODE_PREFIX, NODES, UserInfo};
use model::ids::{KindKey, ObjectKey};
use model::view::kind;

use super::{Ask, Resource, What};
use crate::world::World;

/// Where the Leases of Nodes are.
const LEASES: &str = "kube-node-lease";

/// The Node that a user is the board of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let node = user.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())?;
    user.is_in(NODES).then_some(node)
}

/// Whether a pod bound to this node runs as this service account.
pub fn may_have_token(world: &World, node: &str, namespace: &str, account: &str) -> bool {
    let mut pods = world.pods_on(node).filter(|pod| *pod.meta.namespace == *namespace);
    pods.any(|pod| pod.account() == account)
}

/// Whether it is a board's own.
///
/// # Errors
/// It is not; why, or nothing when there is nothing to say.
pub(super) fn decide(world: &World, ask: &Ask<'_>) -> Result<(), String> {
    let Some(node) = node_of(ask.user) else { return Err(String::new()) };
    let What::Resource(asked) = ask.what else { return Err(String::new()) };
    let judged = match (asked.group, asked.plural) {
        ("", "secrets") => reads_named(world, node, ask.verb, &asked, kind::SECRETS),
        ("", "configmaps") => reads_named(world, node, ask.verb, &asked, kind::CONFIG_MAPS),
        ("", "serviceaccounts") => asks_for_token(world, node, ask.verb, &asked),
        ("", "nodes") => own_node(node, ask.verb, &asked),
        ("", "pods") => own_pod(world, node, ask.verb, &asked),
        ("coordination.k8s.io", "leases") => own_lease(node, ask.verb, &asked),
        _ => Err(""),
    };
    judged.map_err(|why| match why {
        UNRELATED => format!("no relationship found between node '{node}' and this object"),
        NOT_ITS_NODE if asked.name.is_empty() => {
            format!("node '{node}' cannot read all nodes, only its own Node object")
        }
        NOT_ITS_NODE => {
            let other = asked.name;
            format!("node '{node}' cannot read '{other}', only its own Node object")
        }
        why => why.to_owned(),
    })
}

type Judged = Result<(), &'static str>;

/// Stand for texts that name the node.
const UNRELATED: &str = "unrelated";
const NOT_ITS_NODE: &str = "another node";

/// GET, LIST and WATCH of one object that a pod of the node mentions.
fn reads_named(
    world: &World,
    node: &str,
    verb: &str,
    asked: &Resource<'_>,
    kind: KindKey,
) -> Judged {
    if !matches!(verb, "get" | "list" | "watch") {
        return Err("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return Err("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return Err("can only read namespaced object of this type");
    }
    if asked.name.is_empty() {
        return Err("No Object name found");
    }
    let (namespace, name) = (asked.namespace.to_owned(), asked.name.to_owned());
    let need = ObjectKey { kind, namespace, name };
    world.nodes_needing(&need).contains(node).then_some(()).ok_or(UNRELATED)
}

fn asks_for_token(world: &World, node: &str, verb: &str, asked: &Resource<'_>) -> Judged {
    if verb != "create" || asked.name.is_empty() {
        return Err("can only create tokens for individual service accounts");
    }
    if asked.subresource != "token" {
        return Err("can only create token subresource of serviceaccount");
    }
    let may = may_have_token(world, node, asked.namespace, asked.name);
    may.then_some(()).ok_or(UNRELATED)
}

fn own_node(node: &str, verb: &str, asked: &Resource<'_>) -> Judged {
    match (asked.subresource, verb) {
        ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
        ("", "get" | "list" | "watch") => Err(NOT_ITS_NODE),
        ("status", "update" | "patch") if asked.name == node => Ok(()),
        _ => Err(""),
    }
}

fn own_pod(world: &World, node: &str, verb: &str, asked: &Resource<'_>) -> Judged {
    let is_own = || {
        let pod = world.pod(asked.namespace, asked.name);
        pod.is_some_and(|pod| *pod.node == *node).then_some(()).ok_or(UNRELATED)
    };
    match (asked.subresource, verb) {
        ("", "get") if !asked.name.is_empty() => is_own(),
        ("", "list" | "watch") if asked.of_node == node => Ok(()),
        ("", "list" | "watch") if !asked.name.is_empty() => is_own(),
        ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector"),
        ("status", "update" | "patch") => is_own(),
        _ => Err(""),
    }
}

fn own_lease(node: &str, verb: &str, asked: &Resource<'_>) -> Judged {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return Err("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of what is created is in its body: judged where that is known.
    if verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}
