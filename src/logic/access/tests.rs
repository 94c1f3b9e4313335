//! Decisions over the roles that a real server begins with, and over boards' own objects.

use model::access::{ANONYMOUS, AUTHENTICATED, NODES, UNAUTHENTICATED, bootstrap};
use model::ids::{KindKey, ObjectKey, Uid, Version};
use model::view::kind;
use serde_json::{Value, json};

use super::*;

/// A world with objects in it.
struct Bed {
    world: World,
    uids: u8,
}

impl Bed {
    /// With the first roles.
    fn new() -> Self {
        let mut bed = Self { world: World::default(), uids: 0 };
        for (kind, object) in bootstrap::objects() {
            bed.put(kind, object);
        }
        bed
    }

    fn put(&mut self, kind: KindKey, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey { kind, namespace: text("namespace"), name: text("name") };
        self.uids = self.uids.wrapping_add(1);
        let mut uid = Uid([self.uids; 16]);
        uid.0[0] = key.name.len() as u8;
        self.world
            .apply(&key, Version(1), uid, Some(object.to_string().as_bytes()))
            .expect("of the shape of its kind");
    }

    fn bind(&mut self, namespace: &str, role: (&str, &str), subject: Value) {
        let kind =
            if namespace.is_empty() { kind::CLUSTER_ROLE_BINDINGS } else { kind::ROLE_BINDINGS };
        self.put(
            kind,
            json!({"metadata": {"name": format!("b{}", self.uids), "namespace": namespace},
                "roleRef": {"kind": role.0, "name": role.1}, "subjects": [subject]}),
        );
    }

    fn check(&self, user: &UserInfo, verb: &str, what: What<'_>, expected: Result<&str, &str>) {
        let verdict = decide(&self.world, &Ask { user, verb, what });
        assert_eq!(
            may(&self.world, &Ask { user, verb, what }),
            verdict.is_allowed(),
            "the short answer is the same"
        );
        let found = match &verdict {
            Verdict::Allowed(why) => Ok(why.as_str()),
            Verdict::NoOpinion(why) => Err(why.as_str()),
        };
        assert_eq!(found, expected, "{} {verb} {what:?}", user.name);
    }
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::new(name, groups.iter().map(|group| (*group).to_owned()))
}

/// `pods`, `pods/log`, `deployments.apps`, in a namespace, of a name.
fn of<'a>(what: &'a str, namespace: &'a str, name: &'a str) -> What<'a> {
    let (plural, group) = what.split_once('.').unwrap_or((what, ""));
    let (plural, subresource) = plural.split_once('/').unwrap_or((plural, ""));
    What::Resource(Resource { group, plural, subresource, namespace, name, ..Resource::default() })
}

#[test]
fn the_first_roles_open_what_a_real_server_opens() {
    let bed = Bed::new();
    let jane = user("jane", &[AUTHENTICATED]);
    let nobody = user(ANONYMOUS, &[UNAUTHENTICATED]);
    let by = |binding: &str, role: &str, group: &str| {
        format!(
            "RBAC: allowed by ClusterRoleBinding {binding:?} of ClusterRole {role:?} to Group \
             {group:?}"
        )
    };
    let (public, discovery) = ("system:public-info-viewer", "system:discovery");
    bed.check(&nobody, "get", What::Path("/version"), Ok(&by(public, public, UNAUTHENTICATED)));
    bed.check(&nobody, "get", What::Path("/apis"), Err(""));
    bed.check(&jane, "get", What::Path("/apis/apps"), Ok(&by(discovery, discovery, AUTHENTICATED)));
    bed.check(&jane, "post", What::Path("/apis"), Err(""));
    bed.check(&jane, "get", What::Path("/metrics"), Err(""));
    bed.check(&jane, "list", of("pods", "shop", ""), Err(""));
    let basic = by("system:basic-user", "system:basic-user", AUTHENTICATED);
    let review = "selfsubjectaccessreviews.authorization.k8s.io";
    bed.check(&jane, "create", of(review, "", ""), Ok(&basic));
    bed.check(&user("root", &["system:masters"]), "delete", of("nodes", "", "x"), Ok(""));
    bed.check(&user("system:masters", &[]), "delete", of("nodes", "", "x"), Err(""));
}

#[test]
fn roles_hold_where_they_are_bound() {
    let mut bed = Bed::new();
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name, "namespace": "shop"}, "rules": rules});
    let rules = json!([
        {"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "*/scale"]},
        {"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]},
    ]);
    bed.put(kind::ROLES, role("reader", rules.clone()));
    let mut cluster = role("reader", rules);
    cluster["metadata"]["namespace"] = "".into();
    bed.put(kind::CLUSTER_ROLES, cluster);
    let jane = user("jane", &[]);
    bed.bind("shop", ("Role", "reader"), json!({"kind": "User", "name": "jane"}));
    let by = |name: &str, kind: &str, to: &str| {
        format!("RBAC: allowed by RoleBinding \"{name}/shop\" of {kind} \"reader\" to {to}")
    };
    let name = bed.world.bindings_of(&jane, "shop").next().expect("bound").0.meta.name.to_string();
    let yes = by(&name, "Role", "User \"jane\"");
    for what in ["pods", "deployments/scale.apps", "pods/scale"] {
        bed.check(&jane, "list", of(what, "shop", ""), Ok(&yes));
    }
    for (verb, what, namespace, name) in [
        ("watch", "pods", "shop", ""),
        ("list", "pods", "other", ""),
        ("list", "pods", "", ""),
        ("get", "pods/log", "shop", "p"),
        ("get", "pods.batch", "shop", "p"),
        ("get", "secrets", "shop", "other"),
        ("list", "secrets", "shop", ""),
        ("create", "secrets", "shop", ""),
    ] {
        bed.check(&jane, verb, of(what, namespace, name), Err(""));
    }
    bed.check(&jane, "delete", of("secrets", "shop", "mine"), Ok(&yes));
    // A ClusterRole bound in a namespace holds there only; an account is of the binding's namespace.
    bed.bind("shop", ("ClusterRole", "reader"), json!({"kind": "ServiceAccount", "name": "robot"}));
    let robot = user("system:serviceaccount:shop:robot", &[]);
    let name = bed.world.bindings_of(&robot, "shop").next().expect("bound").0.meta.name.to_string();
    let yes = by(&name, "ClusterRole", "ServiceAccount \"robot/shop\"");
    bed.check(&robot, "get", of("pods", "shop", "p"), Ok(&yes));
    bed.check(&robot, "get", of("pods", "other", "p"), Err(""));
    bed.check(
        &user("system:serviceaccount:other:robot", &[]),
        "get",
        of("pods", "shop", "p"),
        Err(""),
    );
}

#[test]
fn roles_that_are_missing_are_named() {
    let mut bed = Bed::new();
    let jane = user("jane", &[]);
    bed.bind("", ("ClusterRole", "gone"), json!({"kind": "User", "name": "jane"}));
    let one = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
    bed.check(&jane, "list", of("pods", "shop", ""), Err(one));
    bed.bind("shop", ("Role", "lost"), json!({"kind": "User", "name": "jane"}));
    let two = "RBAC: [clusterrole.rbac.authorization.k8s.io \"gone\" not found, \
               role.rbac.authorization.k8s.io \"lost\" not found]";
    bed.check(&jane, "list", of("pods", "shop", ""), Err(two));
    // A ClusterRoleBinding cannot name a Role.
    bed.bind("", ("Role", "admin"), json!({"kind": "User", "name": "eve"}));
    let none = "RBAC: role.rbac.authorization.k8s.io \"admin\" not found";
    bed.check(&user("eve", &[]), "list", of("pods", "shop", ""), Err(none));
}

fn pod(node: &str, name: &str, account: &str, secret: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
        "nodeName": node, "serviceAccountName": account, "containers": [{"name": "c"}],
        "volumes": [{"name": "v", "secret": {"secretName": secret}},
            {"name": "w", "configMap": {"name": format!("map-{name}")}}],
    }})
}

#[test]
fn a_board_has_its_own_and_nothing_of_its_neighbours() {
    let mut bed = Bed::new();
    bed.put(kind::PODS, pod("pi-1", "one", "robot", "key-1"));
    bed.put(kind::PODS, pod("pi-2", "two", "", "key-2"));
    let board = user("system:node:pi-1", &[NODES, AUTHENTICATED]);
    let lease = "leases.coordination.k8s.io";
    for (verb, what, namespace, name) in [
        ("get", "secrets", "shop", "key-1"),
        ("watch", "configmaps", "shop", "map-one"),
        ("get", "nodes", "", "pi-1"),
        ("patch", "nodes/status", "", "pi-1"),
        ("get", "pods", "shop", "one"),
        ("patch", "pods/status", "shop", "one"),
        ("update", lease, "kube-node-lease", "pi-1"),
        ("create", lease, "kube-node-lease", ""),
        ("create", "serviceaccounts/token", "shop", "robot"),
    ] {
        bed.check(&board, verb, of(what, namespace, name), Ok(""));
    }
    let unrelated = "no relationship found between node 'pi-1' and this object";
    for (verb, what, namespace, name, why) in [
        ("get", "secrets", "shop", "key-2", unrelated),
        ("get", "secrets", "other", "key-1", unrelated),
        ("list", "secrets", "shop", "", "No Object name found"),
        ("list", "secrets", "", "", "can only read namespaced object of this type"),
        ("delete", "secrets", "shop", "key-1", "can only read resources of this type"),
        ("get", "configmaps", "shop", "map-two", unrelated),
        ("get", "nodes", "", "pi-2", "node 'pi-1' cannot read 'pi-2', only its own Node object"),
        ("list", "nodes", "", "", "node 'pi-1' cannot read all nodes, only its own Node object"),
        ("patch", "nodes", "", "pi-1", ""),
        ("patch", "nodes/status", "", "pi-2", ""),
        ("delete", "nodes", "", "pi-1", ""),
        ("get", "pods", "shop", "two", unrelated),
        ("patch", "pods/status", "shop", "two", unrelated),
        ("delete", "pods", "shop", "one", ""),
        ("get", "pods/log", "shop", "one", ""),
        ("create", "pods/exec", "shop", "one", ""),
        ("create", "serviceaccounts/token", "shop", "default", unrelated),
        (
            "get",
            "serviceaccounts",
            "shop",
            "robot",
            "can only create tokens for individual service accounts",
        ),
        ("list", "services", "shop", "", ""),
        ("create", "events", "shop", "", ""),
    ] {
        bed.check(&board, verb, of(what, namespace, name), Err(why));
    }
    let only_own =
        What::Resource(Resource { plural: "pods", of_node: "pi-1", ..Resource::default() });
    bed.check(&board, "list", only_own, Ok(""));
    let others =
        What::Resource(Resource { plural: "pods", of_node: "pi-2", ..Resource::default() });
    let why = "can only list/watch pods with spec.nodeName field selector";
    bed.check(&board, "list", others, Err(why));
    // The name alone is not enough, and neither is the group.
    bed.check(&user("system:node:pi-1", &[]), "get", of("secrets", "shop", "key-1"), Err(""));
    bed.check(&user("pi-1", &[NODES]), "get", of("secrets", "shop", "key-1"), Err(""));
    assert_eq!(node_of(&board), Some("pi-1"));
    assert!(may_have_token(&bed.world, "pi-2", "shop", "default"));
    assert!(!may_have_token(&bed.world, "pi-2", "shop", "robot"));
}

#[test]
fn rules_are_packed_small() {
    let bed = Bed::new();
    let of_roles = bed.world.cluster_roles().map(|role| role.rules.bytes());
    let bytes: usize = of_roles.sum();
    assert!((10_000..40_000).contains(&bytes), "{bytes} bytes of rules");
}
