//! May they? The authorisers of the API: who may do everything, boards, roles.
//!
//! ```text
//! system:masters ── yes
//! a board        ── node: is it its own?  ─ yes │ no opinion ─┐
//! everybody      ── rbac: a rule of a role that is bound to it ┴─ yes │ no
//! ```
//! In: a question ([`Ask`]) and the views. Out: a [`Verdict`] with the words of a real server. Nothing
//! allows what no rule allows; a role or binding that cannot be read allows nothing. Pure; costs a few
//! look-ups by name and a walk over packed rules (a few microseconds on a large computer).
//!
//! [`escalation`] is the other half of Kubernetes' RBAC: nobody gives what they do not have.
//!
//! Deliberately absent: `Deny` (RBAC has none), webhooks, and what upstream's node authoriser grants to
//! all kubelets alike (services, events, reviews, other Nodes): our boards hear of these over the bus.

pub mod escalation;
mod node;
mod rbac;

use std::fmt;

use model::access::{MASTERS, UserInfo};
use model::view::{BindingView, Subject, SubjectKind};

use crate::world::World;

pub use node::{may_have_token, node_of};
pub use rbac::{RulesOf, rules_of};

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// What they want to do: `get`, `create`, `impersonate`; off-resource the method in lower case.
    pub verb: &'a str,
    /// With what.
    pub what: What<'a>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A resource.
    Resource(Resource<'a>),
    /// A path outside the resources.
    Path(&'a str),
}

/// A resource that is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resource<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// `pods`.
    pub plural: &'a str,
    /// `log`, or empty.
    pub subresource: &'a str,
    /// Namespace; empty for all, and for kinds without one.
    pub namespace: &'a str,
    /// Name; empty for a collection.
    pub name: &'a str,
    /// The node that the field selector of a list or watch of pods is limited to.
    pub of_node: &'a str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes; by what, empty for [`MASTERS`].
    Allowed(String),
    /// Nothing allows it; why not, when more is to say than that. May be empty.
    NoOpinion(String),
}

impl Verdict {
    /// Whether it is yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Answers a question.
pub fn decide(world: &World, ask: &Ask<'_>) -> Verdict {
    if ask.user.is_in(MASTERS) {
        return Verdict::Allowed(String::new());
    }
    let of_node = match node::decide(world, ask) {
        Ok(()) => return Verdict::Allowed(String::new()),
        Err(why) => why,
    };
    match rbac::decide(world, ask) {
        Ok(grant) => Verdict::Allowed(format!("RBAC: allowed by {grant}")),
        Err(why) => {
            let reasons = [of_node, why].into_iter().filter(|why| !why.is_empty());
            Verdict::NoOpinion(reasons.collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Whether the answer is yes, without the words.
pub fn may(world: &World, ask: &Ask<'_>) -> bool {
    ask.user.is_in(MASTERS) || node::decide(world, ask).is_ok() || rbac::decide(world, ask).is_ok()
}

/// What allows something: prints as `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`.
#[derive(Clone, Copy, Debug)]
struct Grant<'a> {
    binding: &'a BindingView,
    subject: &'a Subject,
}

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindingView { meta, role, .. } = self.binding;
        match &*meta.namespace {
            "" => write!(f, "ClusterRoleBinding {:?}", meta.name)?,
            namespace => write!(f, "RoleBinding \"{}/{namespace}\"", meta.name)?,
        }
        let kind = if role.is_cluster { "ClusterRole" } else { "Role" };
        write!(f, " of {kind} {:?} to {} ", role.name, self.subject.kind.as_str())?;
        match self.subject.kind {
            SubjectKind::ServiceAccount => {
                let own = [&*self.subject.namespace, &*meta.namespace];
                let namespace = own.into_iter().find(|it| !it.is_empty()).unwrap_or_default();
                write!(f, "\"{}/{namespace}\"", self.subject.name)
            }
            _ => write!(f, "{:?}", self.subject.name),
        }
    }
}

#[cfg(test)]
mod tests;
