//! The object `kube-system/kumquat-masters`: the next member id, where each member is, what is wanted.
//!
//! The leader writes it; every master reads its own copy, so that masters find each other whoever
//! leads and after all of them were off.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use logic::controller::Op;
use logic::masters::{Durability, Wanted};
use model::ids::{KindKey, ObjectKey};
use model::join::{key_text, parse_key};
use model::masters::{MASTERS_OBJECT, MasterAtV1, MemberId, MembersV1, Part};
use model::status::ApiError;
use model::view::kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::io::store::{Record, Store, StoreError};
use crate::master::elector::Book;
use crate::master::keys::SYSTEM;

/// Key of the next member id in the object's data.
const NEXT: &str = "next";
/// Start of the keys of members.
const MEMBER: &str = "member-";
/// Keys of what the user wants.
const VOTERS: &str = "voters";
const DURABILITY: &str = "durability";

/// What the object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The id that the next member gets; 1 is the founder's.
    pub next: u64,
    /// Members, and those that are to become some.
    pub members: BTreeMap<MemberId, MasterAtV1>,
    /// What the user wants.
    pub said: Said,
}

/// What the object says that the user wants; nothing of what it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Voters.
    pub voters: Option<u8>,
    /// Copies of each write.
    pub durability: Option<Durability>,
}

impl Said {
    /// What is wanted, where the object's word counts more than a board's configuration.
    pub fn over(self, configured: Wanted) -> Wanted {
        Wanted {
            voters: self.voters.or(configured.voters),
            durability: self.durability.unwrap_or(configured.durability),
        }
    }
}

/// One member as its row says it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    board: String,
    key: String,
    #[serde(default)]
    addresses: Vec<Ipv4Addr>,
    #[serde(default)]
    api_port: u16,
    #[serde(default)]
    mqtt_port: u16,
    #[serde(default)]
    peer_port: u16,
}

impl Rows {
    /// The object of this name.
    pub fn key() -> ObjectKey {
        let (namespace, name) = (SYSTEM.into(), MASTERS_OBJECT.into());
        ObjectKey { kind: kind::CONFIG_MAPS, namespace, name }
    }

    /// Whether this is the object's key.
    pub fn is_key(key: &ObjectKey) -> bool {
        *key == Self::key()
    }

    /// A client may write its wishes into the object; ids and rows stay as they are, except that what is
    /// no row may go. Nothing may keep the leader from writing it, or give the object an end.
    ///
    /// # Errors
    /// 403: they would not.
    pub fn may_edit(old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let own = |object: &Value| -> Map<String, Value> {
            let data = object["data"].as_object().into_iter().flatten();
            let own = data.filter(|(key, _)| *key == NEXT || key.starts_with(MEMBER));
            own.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let (before, after) = (old.map(own).unwrap_or_default(), own(new));
        let is_ill = |key: &str, value: &Value| key != NEXT && row(key, value).is_none();
        let adds = after.iter().any(|(key, value)| before.get(key) != Some(value));
        let takes =
            before.iter().any(|(key, value)| !after.contains_key(key) && !is_ill(key, value));
        // Keys of `binaryData` are none of `data`.
        let binary = new["binaryData"].as_object().is_some_and(|it| !it.is_empty());
        let owned = new["metadata"]["ownerReferences"].as_array().is_some_and(|it| !it.is_empty());
        match adds || takes || binary || owned || new["immutable"] == true {
            true => Err(Self::kept()),
            false => Ok(()),
        }
    }

    /// Why the object is not written so, and not deleted.
    pub fn kept() -> ApiError {
        let why = format!(
            "`next` and `member-*` say where the masters are, and they keep them: leave those as they are, \
             and the object without owners, binaryData and `immutable`; it is not deleted. \
             Wishes are said with kubectl -n {SYSTEM} patch configmap {MASTERS_OBJECT} \
             -p '{{\"data\":{{\"voters\":\"3\"}}}}'"
        );
        ApiError::forbidden("", "configmaps", MASTERS_OBJECT, &why)
    }

    /// What this master's copy of the object says, with the object.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(store: &Store) -> Result<(Self, Option<Record>), StoreError> {
        let record = store.get(&Self::key())?;
        let rows = record.as_ref().map(|record| Self::parse(&record.body));
        Ok((rows.unwrap_or_default(), record))
    }

    /// Rows that cannot be read are left out: a person may have edited the object.
    pub fn parse(body: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| object["data"][key].as_str();
        let data = object["data"].as_object().into_iter().flatten();
        let members: BTreeMap<MemberId, MasterAtV1> =
            data.filter_map(|(key, value)| row(key, value)).collect();
        let said = Said {
            voters: text(VOTERS).and_then(|voters| voters.parse().ok()),
            durability: match text(DURABILITY) {
                Some("both") => Some(Durability::Both),
                Some("one") => Some(Durability::One),
                _ => None,
            },
        };
        // Never below what is there, whatever the object says.
        let above = members.last_key_value().map_or(2, |(id, _)| id.0 + 1);
        let next = text(NEXT).and_then(|next| next.parse().ok()).unwrap_or(0).max(above);
        Self { next, members, said }
    }

    /// The id for a new member, and the rows in which it is taken.
    pub fn take(&self, at: MasterAtV1) -> (MemberId, Self) {
        let id = MemberId(self.next.max(2));
        let mut rows = self.clone();
        rows.next = id.0 + 1;
        rows.members.insert(id, MasterAtV1 { member: id, ..at });
        (id, rows)
    }

    /// The same, with no id to give that a member of these groups has or had while it was there: the object
    /// may be younger than they are.
    pub(super) fn above(&self, groups: [&MembersV1; 2]) -> Self {
        let mut rows = self.clone();
        let ids = groups.iter().flat_map(|group| {
            let named = group.configs.iter().flatten().copied();
            named.chain(group.members.iter().map(|member| member.id))
        });
        rows.next = ids.map(|id| id.0 + 1).max().unwrap_or(0).max(rows.next);
        rows
    }

    /// The same, with this member there.
    pub(super) fn with(&self, at: MasterAtV1) -> Self {
        let mut rows = self.clone();
        rows.next = rows.next.max(at.member.0 + 1);
        rows.members.insert(at.member, at);
        rows
    }

    /// The same, with what a board's configuration wants of every board, where nothing was said.
    pub(super) fn wishing(mut self, configured: Wanted) -> Self {
        if configured.durability == Durability::Both {
            self.said.durability.get_or_insert(Durability::Both);
        }
        self
    }

    /// The same without a member; its id stays used.
    pub(super) fn without(&self, member: MemberId) -> Self {
        let mut rows = self.clone();
        rows.members.remove(&member);
        rows
    }

    /// The write that removes rows with such keys, if there are any.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::master) fn without_keys(
        store: &Store,
        go: impl Fn(&[u8; 32]) -> bool,
    ) -> Result<Option<Op>, StoreError> {
        let (before, record) = Self::read(store)?;
        let mut rows = before.clone();
        rows.members.retain(|_, at| !go(&at.key));
        Ok(record.filter(|_| rows != before).map(|record| Op::Patch {
            key: record.key,
            base: record.version,
            subresource: None,
            merge: json!({ "data": rows.data_since(&before) }),
        }))
    }

    /// The same without boards that are in none of these groups: they never became members, because the
    /// lead ended on the way, or were some before a promotion.
    pub(super) fn among(&self, groups: [&MembersV1; 2]) -> Self {
        let mut rows = self.clone();
        rows.members.retain(|id, at| {
            groups.iter().any(|group| group.get(*id).is_some_and(|it| it.key == at.key))
        });
        rows
    }

    /// The change of the object's data from what `before` says.
    pub(super) fn data_since(&self, before: &Self) -> Value {
        let mut data = Map::new();
        data.insert(NEXT.to_owned(), self.next.max(2).to_string().into());
        if let Some(durability) =
            self.said.durability.filter(|it| before.said.durability != Some(*it))
        {
            let word = if durability == Durability::Both { "both" } else { "one" };
            data.insert(DURABILITY.to_owned(), word.into());
        }
        for (id, at) in &self.members {
            if before.members.get(id) != Some(at) {
                data.insert(format!("{MEMBER}{id}"), Row::of(at).into());
            }
        }
        for id in before.members.keys().filter(|id| !self.members.contains_key(id)) {
            data.insert(format!("{MEMBER}{id}"), Value::Null);
        }
        data.into()
    }

    /// The whole object, for when there is none.
    pub(super) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": MASTERS_OBJECT, "namespace": SYSTEM },
            "data": self.data_since(&Self::default()),
        })
    }
}

/// The member that a key of the object's data tells of; none when the key or its value is no row.
fn row(key: &str, value: &Value) -> Option<(MemberId, MasterAtV1)> {
    let id = MemberId(key.strip_prefix(MEMBER)?.parse().ok()?);
    let row: Row = serde_json::from_str(value.as_str()?).ok()?;
    Some((id, row.at(id)?))
}

impl Row {
    fn of(at: &MasterAtV1) -> String {
        let row = Self {
            board: at.board.clone(),
            key: key_text(&at.key),
            addresses: at.addresses.clone(),
            api_port: at.api_port,
            mqtt_port: at.mqtt_port,
            peer_port: at.peer_port,
        };
        serde_json::to_string(&row).expect("words and numbers")
    }

    fn at(self, member: MemberId) -> Option<MasterAtV1> {
        let Self { board, addresses, api_port, mqtt_port, peer_port, .. } = self;
        let key = parse_key(&self.key)?;
        let part = Part::Learner;
        Some(MasterAtV1 { member, board, key, addresses, api_port, mqtt_port, peer_port, part })
    }
}

/// Keeps the book as this master's copy of the object says, until `stop`. While there is no object,
/// which is so before a new master has the log, the book stays as it is.
///
/// # Errors
/// None: trouble with the store shows elsewhere.
pub async fn follow(
    store: Store,
    book: watch::Sender<Book>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    // Cancel safety: the book changes as a whole.
    tokio::select! {
        () = watch_object(&store, &book) => {}
        // An error means that nobody can ask any more.
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

/// Pause after the object could not be read or watched.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

async fn watch_object(store: &Store, book: &watch::Sender<Book>) {
    let (kind, own): (KindKey, ObjectKey) = (kind::CONFIG_MAPS, Rows::key());
    loop {
        let from = store.version();
        if let Ok((rows, Some(_))) = Rows::read(store) {
            let members = store.members().unwrap_or_default();
            book.send_if_modified(|known| {
                let fresh = Arc::new(with_known(rows.members, known, &members));
                let is_new = *known != fresh;
                *known = fresh;
                is_new
            });
        }
        let Ok(mut cursor) = store.watch_kind(&kind, Some(SYSTEM), from) else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        loop {
            match cursor.next().await {
                Ok(change) if change.key != own => {}
                Ok(_) => break,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
            }
        }
    }
}

/// The rows, and where a member of the group without one was: an object that somebody broke must not part
/// the masters.
fn with_known(
    mut rows: BTreeMap<MemberId, MasterAtV1>,
    known: &[MasterAtV1],
    members: &MembersV1,
) -> Vec<MasterAtV1> {
    for at in known {
        if members.get(at.member).is_some_and(|member| member.key == at.key) {
            rows.entry(at.member).or_insert_with(|| at.clone());
        }
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use model::masters::MemberV1;

    use super::*;

    fn at(board: &str) -> MasterAtV1 {
        MasterAtV1 {
            member: MemberId(0),
            board: board.to_owned(),
            key: [0xab; 32],
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1)],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: 7443,
            part: Part::Learner,
        }
    }

    #[test]
    fn rows_come_back_and_ids_only_grow() {
        let (first, rows) = Rows::default().take(at("pi-2"));
        assert_eq!(first, MemberId(2), "1 is the founder's");
        let body = rows.object().to_string();
        let read = Rows::parse(body.as_bytes());
        assert_eq!(read, rows);
        let (second, mut rows) = read.take(at("pi-3"));
        assert_eq!(second, MemberId(3));
        rows.members.clear();
        let patch = rows.data_since(&read);
        assert_eq!(patch, json!({ "next": "4", "member-2": null }));
        let (third, _) = rows.take(at("pi-2"));
        assert_eq!(third, MemberId(4), "an id that was given up is not used again");
    }

    #[test]
    fn the_wish_of_a_configuration_becomes_that_of_all_unless_somebody_said_otherwise() {
        let both = Wanted { durability: Durability::Both, ..Wanted::default() };
        let rows = Rows::default().wishing(both);
        assert_eq!(rows.data_since(&Rows::default())["durability"], "both");
        assert_eq!(Rows::parse(rows.object().to_string().as_bytes()).said, rows.said);
        let one = Said { durability: Some(Durability::One), ..Said::default() };
        let said = Rows { said: one, ..Rows::default() }.wishing(both);
        assert_eq!(said.said.over(both), Wanted::default());
        assert_eq!(Rows::default().wishing(Wanted::default()).said, Said::default());
    }

    #[test]
    fn a_client_writes_wishes_and_no_rows() {
        let (_, rows) = Rows::default().take(at("pi-2"));
        let old = rows.object();
        let edited = |edit: fn(&mut Value)| {
            let mut new = old.clone();
            edit(&mut new["data"]);
            Rows::may_edit(Some(&old), &new)
        };
        assert_eq!(edited(|data| data["durability"] = "both".into()), Ok(()));
        for broken in [
            edited(|data| *data = json!({ "durability": "one" })),
            edited(|data| *data = Value::Null),
            edited(|data| data["next"] = "2".into()),
            edited(|data| data["member-2"] = "{}".into()),
            edited(|data| data["member-9"] = data["member-2"].clone()),
            Rows::may_edit(None, &old),
        ] {
            let error = broken.expect_err("the masters keep their rows");
            assert_eq!(error.code, 403);
            assert!(error.message.contains("kubectl"), "{}", error.message);
        }
        let wish = json!({ "data": { "voters": "5" } });
        assert_eq!(Rows::may_edit(None, &wish), Ok(()));
    }

    #[test]
    fn a_client_neither_seals_the_object_nor_gives_it_an_end() {
        let (_, rows) = Rows::default().take(at("pi-2"));
        let free = rows.object();
        let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b" }]);
        for (pointer, field, value) in [
            ("", "immutable", json!(true)),
            ("", "binaryData", json!({ "member-3": "AA==" })),
            ("/metadata", "ownerReferences", owner),
        ] {
            let mut bound = free.clone();
            bound.pointer_mut(pointer).expect("a place")[field] = value;
            let error = Rows::may_edit(Some(&free), &bound).expect_err(field);
            assert_eq!(error.code, 403, "{field}");
            assert!(error.message.contains(field) || error.message.contains("owners"), "{error:?}");
            let mut wish = json!({ "metadata": {}, "data": { "voters": "5" } });
            wish.pointer_mut(pointer).expect("a place")[field] =
                bound.pointer(pointer).expect("a place")[field].clone();
            Rows::may_edit(None, &wish).expect_err(field);
            assert_eq!(Rows::may_edit(Some(&bound), &free), Ok(()), "{field} may be taken away");
        }
    }

    #[test]
    fn what_is_no_row_may_be_taken_away_and_not_made() {
        let (_, rows) = Rows::default().take(at("pi-2"));
        let (mut ill, well) = (rows.object(), rows.object());
        for (key, value) in [("member-7", "{}"), ("member-x", "?"), ("member-", "")] {
            ill["data"][key] = value.into();
        }
        assert_eq!(Rows::parse(ill.to_string().as_bytes()), rows);
        assert_eq!(Rows::may_edit(Some(&ill), &well), Ok(()));
        Rows::may_edit(Some(&well), &ill).expect_err("nobody makes them");
        let mut other = ill.clone();
        other["data"]["member-7"] = "?".into();
        Rows::may_edit(Some(&ill), &other).expect_err("nor others");
        let mut without = ill.clone();
        without["data"].as_object_mut().expect("data").remove("member-2");
        Rows::may_edit(Some(&ill), &without).expect_err("a row stays");
    }

    #[test]
    fn an_object_made_anew_gives_no_id_that_a_member_has() {
        let member = |id| MemberV1 {
            id: MemberId(id),
            board: "pi".to_owned(),
            key: [0; 32],
            part: Part::Voter,
        };
        let ids = |ids: &[u64]| MembersV1 {
            configs: vec![],
            members: ids.iter().copied().map(member).collect(),
        };
        // Voter 3 is off and asks for nothing, so no row tells of it.
        let made = Rows::default().with(MasterAtV1 { member: MemberId(2), ..at("pi-2") });
        let (given, _) = made.above([&ids(&[1, 2, 3]), &ids(&[1, 2])]).take(at("pi-4"));
        assert_eq!(given, MemberId(4));
        let joint = MembersV1 { configs: vec![vec![MemberId(5)]], members: vec![] };
        assert_eq!(made.above([&ids(&[1]), &joint]).next, 6);
        assert_eq!(made.above([&ids(&[1]), &ids(&[])]), made, "as it was");
    }

    #[test]
    fn a_member_of_the_group_stays_where_it_was_when_its_row_is_gone() {
        let known: Vec<MasterAtV1> =
            (1..=3).map(|id| MasterAtV1 { member: MemberId(id), ..at("pi") }).collect();
        let member = |id, key| MemberV1 {
            id: MemberId(id),
            board: "pi".to_owned(),
            key: [key; 32],
            part: Part::Voter,
        };
        // The third is another board by now.
        let members =
            MembersV1 { configs: vec![], members: vec![member(2, 0xab), member(3, 0xcd)] };
        let moved = MasterAtV1 { api_port: 1, member: MemberId(4), ..at("pi-4") };
        let rows = BTreeMap::from([(MemberId(4), moved.clone())]);
        assert_eq!(with_known(rows, &known, &members), [known[1].clone(), moved]);
    }

    #[test]
    fn what_a_person_broke_is_left_out() {
        let body = json!({ "data": {
            "next": "none", "member-7": "{}", "member-x": "{}", "member-5": Row::of(&at("pi-5")),
            "voters": "5", "durability": "both",
        } });
        let rows = Rows::parse(body.to_string().as_bytes());
        assert_eq!(rows.members.keys().collect::<Vec<_>>(), [&MemberId(5)]);
        assert_eq!(rows.next, 6);
        assert_eq!(rows.said, Said { voters: Some(5), durability: Some(Durability::Both) });
        assert_eq!(parse_key("zz"), None);
    }

    #[test]
    fn rows_of_boards_that_are_no_members_go() {
        let key = |key: u8| [key; 32];
        let of = |board: &str, number: u8| MasterAtV1 { key: key(number), ..at(board) };
        let group = |ids: &[u8]| {
            let members = ids.iter().map(|n| (MemberId((*n).into()), format!("b{n}"), key(*n)));
            MembersV1::of([[MemberId(1)].into()], members).expect("a group")
        };
        let mut rows = Rows::default();
        // The key of 4 is that of a board which had the number before a promotion.
        for (id, number) in [(1, 1), (2, 2), (3, 3), (4, 9)] {
            rows = rows.with(MasterAtV1 { member: MemberId(id), ..of("b", number) });
        }
        let (applied, next) = (group(&[1, 2, 4]), group(&[1, 3]));
        let kept = rows.among([&applied, &next]);
        assert_eq!(kept.members.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(kept.next, rows.next, "numbers are never given again");
    }
}
