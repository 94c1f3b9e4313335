//! The cluster as its master sees it: what `kumquat status` and `kumquat board list` show.
//!
//! A contract with programs (`-o json`): fields are only ever added.

use logic::contact::Contact;
use logic::masters::Warning;
use model::masters::{Part, Reign};
use serde_json::{Value, json};

use super::backup::Worry;
use super::identity::Identity;
use crate::io::store::GroupHealth;
use crate::master::authority;
use crate::master::both::{Both, Copies};
use crate::master::contacts::Contacts;
use crate::master::controllers::Views;
use crate::master::keys::Keys;
use crate::master::members::Members;
use crate::master::pending::PendingBoards;
use crate::master::registry::{ListQuery, Registry};

/// Makes the status from the objects.
pub(super) struct ClusterStatus {
    /// The board that leads.
    pub(super) identity: Identity,
    /// In which epoch and term.
    pub(super) leader: Reign,
    /// The objects.
    pub(super) registry: Registry,
    /// The same, as controllers see them.
    pub(super) views: Views,
    /// Which boards are heard.
    pub(super) contacts: Contacts,
    /// Which wait to be let in.
    pub(super) pending: PendingBoards,
    /// The group of masters.
    pub(super) members: Members,
    /// Whether writes wait for a second board.
    pub(super) both: Both,
    /// What keeps backups from being made.
    pub(super) backups: Worry,
}

impl ClusterStatus {
    /// `{cluster, epoch, term, leader, boards, voters, pending, warnings, durability}`.
    ///
    /// # Errors
    /// The store's words.
    pub(super) fn value(&self) -> Result<Value, String> {
        let nodes = model::resource::find("", "v1", "nodes").ok_or("there are no nodes")?;
        let listed = self.registry.list(&ListQuery::all(nodes, None)).map_err(|e| e.message)?;
        let nodes =
            listed.items.iter().filter_map(|item| serde_json::from_slice(&item.json()).ok());
        let nodes: Vec<Value> = nodes.collect();
        let seen = self.contacts.seen();
        let heard = |name: &str| {
            let seen = seen.iter().find(|(board, _)| board == name).map(|(_, seen)| *seen);
            seen.filter(|seen| seen.contact != Contact::Unjudged)
        };
        let group = Masters::of(&self.identity.name, self.members.health());
        let boards = nodes.iter().map(|node| {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let standing = group.standing(name);
            let mut board = board(node, standing != WORKER, heard(name).is_some());
            board["standing"] = standing.into();
            board["lag"] = group.lag(name).into();
            board["pods"] = self.views.world().pods_on(name).count().into();
            board["lastHeardSeconds"] = heard(name).map(|seen| seen.silent_millis / 1_000).into();
            board
        });
        let boards: Vec<Value> = boards.collect();
        let mut warnings: Vec<Value> = nodes.iter().flat_map(warnings).collect();
        if let Some(text) = self.contacts.warning() {
            let (reason, remedy) = text.split_once(": ").unwrap_or((&text, ""));
            let own = &self.identity.name;
            warnings.push(json!({ "board": own, "reason": reason, "remedy": remedy }));
        }
        warnings.extend(self.members.warnings().iter().map(|warning| {
            let (board, reason, remedy) = words(warning);
            json!({ "board": board.unwrap_or(&self.identity.name), "reason": reason, "remedy": remedy })
        }));
        let copies = self.both.copies();
        if copies == Copies::Alone {
            warnings
                .push(json!({ "board": self.identity.name, "reason": ALONE, "remedy": NOT_ALONE }));
        }
        warnings.extend(self.lost());
        warnings.extend(self.backups.warning(&self.identity.name));
        Ok(json!({
            "cluster": self.identity.cluster, "epoch": self.leader.epoch,
            "term": self.leader.term, "leader": self.identity.name, "boards": boards,
            "voters": group.voters(), "pending": self.pending.list(), "warnings": warnings,
            "durability": if copies == Copies::One { "one" } else { "both" },
        }))
    }
}

impl ClusterStatus {
    /// Masters that were thrown out.
    fn lost(&self) -> Vec<Value> {
        let lost = Keys::new(self.registry.clone()).lost_holders().unwrap_or_default();
        let pending = authority::Said::read(self.registry.store()).unwrap_or_default().lost;
        let warning = |board: &String| {
            let is_pending = pending.iter().any(|(_, name)| name == board);
            let (reason, remedy) = if is_pending { PENDING } else { LOST };
            json!({ "board": board, "reason": reason, "remedy": remedy })
        };
        lost.iter().map(warning).collect()
    }
}

const WORKER: &str = "worker";
const ALONE: &str = "durability is \"both\", and no other board holds the log";
const NOT_ALONE: &str = "bring the other board back, or add one (`kumquat token create`)";
/// What is so once a master was thrown out, and what to do.
const LOST: (&str, &str) = (
    "this board was evicted and has the keys of the cluster, because it was a master",
    "erase its disk if you have it; otherwise evict it once more (`kumquat board evict NAME`), so that the \
     cluster takes other keys, and change every Secret",
);

/// What is so until all masters have other keys.
const PENDING: (&str, &str) = (
    "this board was evicted and has the keys of the cluster; they count until every other master has the new \
     ones",
    "start the masters that are off or evict them, and upgrade those of an earlier version",
);

/// Who holds the log.
struct Masters<'a> {
    leader: &'a str,
    /// None while the leader is the only master.
    health: Option<GroupHealth>,
}

impl<'a> Masters<'a> {
    fn of(leader: &'a str, health: Option<GroupHealth>) -> Self {
        Self { leader, health: health.filter(|health| !health.members.configs.is_empty()) }
    }

    /// What a board is: leader, voter, learner or worker.
    fn standing(&self, board: &str) -> &'static str {
        let member = self.health.as_ref().and_then(|health| health.members.of_board(board));
        match member.map(|member| member.part) {
            _ if board == self.leader => "leader",
            Some(Part::Voter) => "voter",
            Some(Part::Learner) => "learner",
            None => WORKER,
        }
    }

    /// Entries that a master is behind the leader; none for boards without the log.
    fn lag(&self, board: &str) -> Option<u64> {
        let health = self.health.as_ref()?;
        let member = health.members.of_board(board)?;
        let matched = match board == self.leader {
            true => health.last_index,
            false => health.matched.get(&member.id).copied().unwrap_or(0),
        };
        Some(health.last_index.saturating_sub(matched))
    }

    /// Names of the boards that decide.
    fn voters(&self) -> Vec<&str> {
        let Some(health) = &self.health else { return vec![self.leader] };
        let voters = health.members.voters();
        let boards = voters.iter().filter_map(|id| health.members.get(*id));
        boards.map(|member| &*member.board).collect()
    }
}

/// A warning about the masters: the board, what is so, and what to do.
fn words(warning: &Warning) -> (Option<&str>, &'static str, &'static str) {
    match warning {
        Warning::NoReplacement { board } => (
            Some(board),
            "this voter is silent, and no other board can take its place",
            "check its power and its network, or add a board (`kumquat token create`)",
        ),
        Warning::Flaps { board } => (
            Some(board),
            "this voter forces elections again and again; it has no vote for half an hour",
            "check its network in both directions, and its clock",
        ),
        Warning::Stuck { board } => (
            Some(board),
            "this board does not catch up with the log",
            "check the speed of its disk and its network",
        ),
        Warning::LearnerAway { board } => (
            Some(board),
            "writes wait for this board, which is not heard",
            "bring it back, or set durability to \"one\" in the ConfigMap kube-system/kumquat-masters",
        ),
        Warning::Full => {
            (None, "no further board can hold the log", "remove masters that are gone for good")
        }
    }
}

/// A board is ready when it says so, and has said anything since this master leads.
fn board(node: &Value, is_master: bool, was_heard: bool) -> Value {
    let address = node["status"]["addresses"]
        .as_array()
        .and_then(|all| all.iter().find(|address| address["type"] == "InternalIP"))
        .map_or(Value::Null, |address| address["address"].clone());
    let info = &node["status"]["nodeInfo"];
    let kubelet = info["kubeletVersion"].as_str().unwrap_or_default();
    json!({
        "name": node["metadata"]["name"], "address": address,
        "role": if is_master { "master" } else { WORKER },
        "ready": was_heard && ready(node) == Some("True"),
        "version": kubelet.rsplit("kumquat.").next().unwrap_or_default(),
        "architecture": info["architecture"],
    })
}

/// Status of the condition Ready.
fn ready(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

/// Conditions of a node that a person should act on; Ready says its own part.
fn warnings(node: &Value) -> Vec<Value> {
    let name = &node["metadata"]["name"];
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .filter_map(|condition| {
            let (reason, message) = (condition["reason"].clone(), condition["message"].clone());
            let (reason, remedy) =
                match (condition["type"].as_str()?, condition["status"].as_str()?) {
                    ("Ready", "Unknown") => (
                        json!(format!(
                            "silent since {}",
                            condition["lastTransitionTime"].as_str().unwrap_or("some time")
                        )),
                        json!("check its power and its network; its pods move to other boards"),
                    ),
                    ("Ready", "False") => (reason, message),
                    ("Ready", _) => return None,
                    // What a silent board's other conditions are, nobody knows.
                    (_, "True") => (reason, message),
                    _ => return None,
                };
            Some(json!({ "board": name, "reason": reason, "remedy": remedy }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_board_is_not_ready_and_says_so() {
        let node = |ready: &str, disk: &str| {
            json!({ "metadata": { "name": "pi-2" }, "status": {
                "addresses": [{ "type": "Hostname", "address": "pi-2" },
                    { "type": "InternalIP", "address": "10.0.0.2" }],
                "nodeInfo": { "kubeletVersion": "v1.36.2+kumquat.0.1.0", "architecture": "arm64" },
                "conditions": [
                    { "type": "DiskPressure", "status": disk, "reason": "D", "message": "free it" },
                    { "type": "Ready", "status": ready, "reason": "R", "message": "mend it",
                        "lastTransitionTime": "2026-11-22T00:00:00Z" },
                ] } })
        };
        let fine = node("True", "False");
        let expected = json!({ "name": "pi-2", "address": "10.0.0.2", "role": "worker",
            "ready": true, "version": "0.1.0", "architecture": "arm64" });
        assert_eq!(board(&fine, false, true), expected);
        assert_eq!(board(&fine, false, false)["ready"], false, "nothing was heard yet");
        assert_eq!(warnings(&fine), Vec::<Value>::new());
        let silent = node("Unknown", "Unknown");
        assert_eq!(board(&silent, false, true)["ready"], false);
        let said = warnings(&silent);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0]["reason"].as_str().expect("text").contains("2026-11-22"), "{said:?}");
        let failed = warnings(&node("False", "True"));
        let remedies: Vec<&Value> = failed.iter().map(|warning| &warning["remedy"]).collect();
        assert_eq!(remedies, ["free it", "mend it"]);
    }
}
