//! Roles and bindings, and which bindings a user or group has.

use std::collections::HashMap;
use std::sync::Arc;

use model::access::{UserInfo, service_account_user, split_service_account};
use model::ids::KindKey;
use model::view::{BindingView, Meta, RoleView, Subject, SubjectKind, View, kind};

use super::World;
use super::table::Table;

/// The tables; those of a cluster are under the empty namespace.
#[derive(Debug, Default)]
pub(super) struct Access {
    roles: Table<RoleView>,
    bindings: Table<BindingView>,
    /// By user, service accounts among them.
    of_user: Index,
    of_group: Index,
}

/// Bindings by subject: namespace and name, sorted. Most have one or two, which a tree would cost
/// twenty times their size.
type Index = HashMap<Box<str>, Vec<(Arc<str>, Arc<str>)>>;

/// Who a subject of a binding is: the name of a user or group; none when it is nobody.
fn holder(subject: &Subject, binding: &Meta) -> Option<(bool, Box<str>)> {
    match subject.kind {
        SubjectKind::User => Some((false, subject.name.clone())),
        SubjectKind::Group => Some((true, subject.name.clone())),
        SubjectKind::ServiceAccount => {
            let own = [&*subject.namespace, &*binding.namespace];
            let namespace = own.into_iter().find(|namespace| !namespace.is_empty())?;
            Some((false, service_account_user(namespace, &subject.name).into()))
        }
        SubjectKind::Nobody => None,
    }
}

/// [`holder`] without a text of its own.
fn is_held_by(subject: &Subject, binding: &Meta, is_group: bool, who: &str) -> bool {
    match subject.kind {
        SubjectKind::User => !is_group && *subject.name == *who,
        SubjectKind::Group => is_group && *subject.name == *who,
        SubjectKind::ServiceAccount => {
            let own = match subject.namespace.is_empty() {
                true => &*binding.namespace,
                false => &*subject.namespace,
            };
            !is_group && split_service_account(who) == Some((own, &*subject.name))
        }
        SubjectKind::Nobody => false,
    }
}

impl Access {
    pub(super) fn insert_role(&mut self, view: RoleView) {
        self.roles.insert(view.meta.names(), view);
    }

    pub(super) fn insert_binding(&mut self, view: BindingView) {
        let (namespace, name) = view.meta.names();
        for (is_group, holder) in view.subjects.iter().filter_map(|it| holder(it, &view.meta)) {
            let index = if is_group { &mut self.of_group } else { &mut self.of_user };
            let names = index.entry(holder).or_default();
            let place = (namespace.clone(), name.clone());
            if let Err(at) = names.binary_search(&place) {
                names.reserve_exact(1);
                names.insert(at, place);
            }
        }
        self.bindings.insert((namespace, name), view);
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) -> Option<View> {
        if !is_binding(kind) {
            return self.roles.remove(namespace, name).map(View::Role);
        }
        let view = self.bindings.remove(namespace, name)?;
        for (is_group, holder) in view.subjects.iter().filter_map(|it| holder(it, &view.meta)) {
            let index = if is_group { &mut self.of_group } else { &mut self.of_user };
            let Some(names) = index.get_mut(&holder) else { continue };
            if let Ok(at) = names.binary_search_by(|it| (&*it.0, &*it.1).cmp(&(namespace, name))) {
                names.remove(at);
            }
            if names.is_empty() {
                index.remove(&holder);
            }
        }
        Some(View::Binding(view))
    }

    pub(super) fn meta(&self, kind: &str, namespace: &str, name: &str) -> Option<&Meta> {
        match is_binding(kind) {
            true => self.bindings.get(namespace, name).map(|it| &it.meta),
            false => self.roles.get(namespace, name).map(|it| &it.meta),
        }
    }

    /// Kind and metadata of everything, in one namespace or all.
    pub(super) fn metas<'a, 'n>(
        &'a self,
        namespace: Option<&'n str>,
    ) -> impl Iterator<Item = (KindKey, &'a Meta)> + use<'a, 'n> {
        let within = move |meta: &&'a Meta| namespace.is_none_or(|it| *meta.namespace == *it);
        let roles = self.roles.iter().map(|it| &it.meta).filter(within);
        let bindings = self.bindings.iter().map(|it| &it.meta).filter(within);
        let of_roles = |meta: &Meta| match meta.namespace.is_empty() {
            true => kind::CLUSTER_ROLES,
            false => kind::ROLES,
        };
        let of_bindings = |meta: &Meta| match meta.namespace.is_empty() {
            true => kind::CLUSTER_ROLE_BINDINGS,
            false => kind::ROLE_BINDINGS,
        };
        let roles = roles.map(move |meta| (of_roles(meta), meta));
        roles.chain(bindings.map(move |meta| (of_bindings(meta), meta)))
    }
}

fn is_binding(kind: &str) -> bool {
    kind.ends_with("bindings")
}

/// Whether objects of a kind are kept here.
pub(super) fn keeps(kind: &str) -> bool {
    matches!(
        kind,
        "rbac.authorization.k8s.io/roles"
            | "rbac.authorization.k8s.io/clusterroles"
            | "rbac.authorization.k8s.io/rolebindings"
            | "rbac.authorization.k8s.io/clusterrolebindings"
    )
}

impl World {
    /// One Role, or with an empty namespace one ClusterRole.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&RoleView> {
        self.access.roles.get(namespace, name)
    }

    /// All ClusterRoles, by name.
    pub fn cluster_roles(&self) -> impl Iterator<Item = &RoleView> {
        self.access.roles.within("")
    }

    /// The bindings of a namespace (those of the cluster under the empty one) that a user has, by its
    /// name or through a group, with the subject that it is. One may come twice.
    pub fn bindings_of<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a BindingView, &'a Subject)> {
        let access = &self.access;
        let by_name = std::iter::once((false, &access.of_user, user.name.as_str()));
        let groups = user.groups.iter().map(|group| (true, &access.of_group, group.as_str()));
        by_name.chain(groups).flat_map(move |(is_group, index, who)| {
            let names = index.get(who).map(Vec::as_slice).unwrap_or_default();
            let names = &names[names.partition_point(|it| &*it.0 < namespace)..];
            let here = names.iter().take_while(move |it| &*it.0 == namespace);
            let bindings = here.filter_map(|(_, name)| access.bindings.get(namespace, name));
            bindings.filter_map(move |binding| {
                let is_it = |it: &&Subject| is_held_by(it, &binding.meta, is_group, who);
                Some((binding, binding.subjects.iter().find(is_it)?))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{ObjectKey, Uid, Version};
    use serde_json::{Value, json};

    use super::*;

    fn put(world: &mut World, kind: KindKey, namespace: &str, name: &str, body: Option<Value>) {
        let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        let body = body.map(|body| body.to_string());
        let body = body.as_ref().map(|text| text.as_bytes());
        let changed = world.apply(&key, Version(1), Uid([name.len() as u8; 16]), body);
        assert!(changed.is_ok(), "{key}");
    }

    fn names(world: &World, user: &UserInfo, namespace: &str) -> Vec<String> {
        world.bindings_of(user, namespace).map(|(it, _)| it.meta.name.to_string()).collect()
    }

    fn binding(subjects: Value) -> Option<Value> {
        Some(json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": subjects}))
    }

    #[test]
    fn bindings_are_found_by_user_group_and_account_and_forgotten() {
        let mut world = World::default();
        let user = |name: &str, groups: &[&str]| {
            UserInfo::new(name, groups.iter().map(|group| (*group).to_owned()))
        };
        let jane = user("jane", &["dev"]);
        let robot = user("system:serviceaccount:shop:robot", &[]);
        let all = json!([
            {"kind": "User", "name": "jane"}, {"kind": "Group", "name": "dev"},
            {"kind": "ServiceAccount", "name": "robot"}, {"kind": "Planet", "name": "jane"},
        ]);
        put(&mut world, kind::ROLE_BINDINGS, "shop", "one", binding(all.clone()));
        put(&mut world, kind::CLUSTER_ROLE_BINDINGS, "", "all", binding(all));
        assert_eq!(names(&world, &jane, "shop"), ["one", "one"]);
        assert_eq!(names(&world, &jane, ""), ["all", "all"]);
        assert_eq!(names(&world, &robot, "shop"), ["one"], "its namespace is the binding's");
        assert!(names(&world, &robot, "").is_empty(), "an account of no namespace is nobody");
        assert!(names(&world, &jane, "other").is_empty());
        assert!(names(&world, &user("dev", &["jane"]), "shop").is_empty(), "groups are no users");
        let robots = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "shop"}]);
        put(&mut world, kind::ROLE_BINDINGS, "shop", "one", binding(robots));
        assert!(names(&world, &jane, "shop").is_empty());
        assert_eq!(names(&world, &robot, "shop"), ["one"]);
        put(&mut world, kind::ROLE_BINDINGS, "shop", "one", None);
        put(&mut world, kind::CLUSTER_ROLE_BINDINGS, "", "all", None);
        let access = &world.access;
        assert!(access.of_user.is_empty() && access.of_group.is_empty(), "nothing is left");
    }
}
