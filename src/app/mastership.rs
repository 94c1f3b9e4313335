//! Which member of the group of masters this board is: `<data-dir>/master.json`, and what a board
//! becomes a master with.
//!
//! A kit is taken over in an order in which a power cut leaves either a worker or a whole master: keys,
//! then the certificate, an empty place for the log, and the file last.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use model::ids::Version;
use model::masters::{KitV1, MasterAtV1, MemberId, SecretBytes};
use model::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::authority;
use super::dirs::Dirs;
use super::identity::{Identity, Role};
use crate::io::durable;
use crate::io::store::{SecretsKeys, Standing, Store};
use crate::io::tls::{BoardKey, Credentials, Pki, TokenKeys};

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mastership {
    /// Which member.
    pub(super) member: MemberId,
    /// Epoch of the log at that time.
    pub(super) epoch: u64,
    /// Where the masters were at that time: until the log says more.
    #[serde(default)]
    pub(super) masters: Vec<MasterAtV1>,
    /// It has taken part: its log and its vote lie on the disk, and if they do not, they are lost.
    #[serde(default)]
    pub(super) entered: bool,
    /// It is about to leave the group and to lead alone with what its log holds.
    #[serde(default, skip_serializing_if = "is_not")]
    pub(super) promoting: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_not(it: &bool) -> bool {
    !*it
}

impl Mastership {
    /// What lies on the disk; `None` on a board that is no member, or the only master since ever.
    ///
    /// # Errors
    /// The file cannot be read or is damaged: a board must not forget that it is a member.
    pub(super) fn load(dirs: &Dirs) -> Result<Option<Self>> {
        let path = dirs.master();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let known = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged: remove it and the folder {}, and this board begins anew as a worker",
                path.display(),
                dirs.store().display()
            )
        })?;
        Ok(Some(known))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save(&self, dirs: &Dirs) -> Result<()> {
        let path = dirs.master();
        durable::replace(&path, &serde_json::to_vec(self)?, durable::PUBLIC)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps for good that this board is that member of a group: whoever comes back without its log has
    /// lost it then, and founds nothing, also when it once founded the cluster.
    ///
    /// # Errors
    /// The disk refuses, or what it says of this board is damaged.
    pub(super) fn note(dirs: &Dirs, member: MemberId, epoch: u64) -> Result<()> {
        let known = Self::load(dirs)?;
        let masters = known.as_ref().map(|known| known.masters.clone()).unwrap_or_default();
        let noted = Self { member, epoch, masters, entered: true, promoting: false };
        match known {
            Some(known) if known == noted => Ok(()),
            _ => noted.save(dirs),
        }
    }

    /// Keeps that this board is about to lead alone with what its log holds.
    ///
    /// # Errors
    /// As [`Mastership::note`].
    pub(super) fn begin_promotion(dirs: &Dirs) -> Result<()> {
        match Self::load(dirs)? {
            Some(known) => Self { promoting: true, ..known }.save(dirs),
            None => Ok(()),
        }
    }

    /// Takes that back.
    ///
    /// # Errors
    /// As [`Mastership::note`].
    pub(super) fn end_promotion(dirs: &Dirs) -> Result<()> {
        match Self::load(dirs)? {
            Some(known) => Self { promoting: false, ..known }.save(dirs),
            None => Ok(()),
        }
    }

    /// Makes a board whose log is its own the founder of a new epoch.
    ///
    /// # Errors
    /// The disk refuses; the next start does the rest.
    pub(super) fn finish_promotion(dirs: &Dirs, identity: &Identity) -> Result<()> {
        Identity { role: Role::Founder, ..identity.clone() }.save(dirs)?;
        Self::forget(dirs)
    }

    /// Whether a store that says nothing of the group of this member has lost that.
    pub(super) fn is_lost(&self, store: &Store) -> bool {
        self.entered && store.standing() == Standing::Sole && !self.is_promoted(store)
    }

    /// Whether this board has left its group with that store, in which it is alone: in a later epoch.
    pub(super) fn is_promoted(&self, store: &Store) -> bool {
        let is_alone = store.standing() == Standing::Sole && store.version() > Version(0);
        self.promoting && is_alone && store.log_epoch() > Some(self.epoch)
    }

    /// Takes a kit over: once this returns, the board is that member.
    ///
    /// # Errors
    /// Parts that do not fit this board, or the disk.
    pub(super) fn take(dirs: &Dirs, kit: &KitV1) -> Result<Self> {
        let data = &dirs.data;
        Pki::install(data, &kit.authority_key.0)?;
        install_keys(data, kit)?;
        authority::set_group(data, kit.group)?;
        let key = BoardKey::open(data)?;
        let authority = fs::read_to_string(data.join("pki/ca.crt"))
            .context("cannot read the authority's certificate")?;
        Credentials::save(data, &key, &kit.certificate, &authority)?;
        // Whatever log lies there is of another member; a cut on the way leaves a worker.
        Self::forget(dirs)?;
        set_aside(&dirs.store())?;
        let KitV1 { member, epoch, masters, .. } = kit.clone();
        let mastership = Self { member, epoch, masters, entered: false, promoting: false };
        mastership.save(dirs)?;
        Ok(mastership)
    }

    /// Forgets that this board was a master; what it held is set aside, the keys stay.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn step_down(dirs: &Dirs) -> Result<()> {
        // First: an empty place for the log must not be taken for this member's.
        Self::forget(dirs)?;
        set_aside(&dirs.store())
    }

    /// Whether the keys of the cluster lie on a board that is a master no more.
    pub(super) fn left_keys(dirs: &Dirs) -> bool {
        dirs.data.join("pki/ca.key").exists() && !dirs.master().exists() && !dirs.store().exists()
    }

    /// Removes them; the last thing that is signed is a certificate with which this board leads nobody.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn forget_keys(dirs: &Dirs, name: &str, now: Timestamp) -> Result<()> {
        if dirs.data.join("pki/ca.key").exists() {
            let pki = Pki::open(&dirs.data, now)?;
            let key = BoardKey::open(&dirs.data)?;
            let certificate = pki.issue_board(name, &key.public_key(), false)?;
            Credentials::save(&dirs.data, &key, &certificate, pki.ca_certificate())?;
        }
        authority::forget(&dirs.data)?;
        Ok(Pki::uninstall(&dirs.data)?)
    }

    /// Forgets which member this board was.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn forget(dirs: &Dirs) -> Result<()> {
        match fs::remove_file(dirs.master()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Takes over what tokens are signed and Secrets are sealed with: a leader of an earlier version hands out
/// none, and has none.
fn install_keys(data: &Path, kit: &KitV1) -> Result<()> {
    let text = |pem: &SecretBytes| String::from_utf8_lossy(&pem.0).into_owned();
    let pems: Vec<String> = kit.token_keys.iter().map(text).collect();
    if !pems.is_empty() {
        TokenKeys::install(data, &pems)?;
    }
    if !kit.secrets_keys.is_empty() {
        SecretsKeys::install(data, &kit.secrets_keys).context("cannot keep the keys of Secrets")?;
    }
    Ok(())
}

/// Moves a store out of the way; the last two are kept, for whoever wants to look at them.
fn set_aside(store: &Path) -> Result<()> {
    if !store.exists() {
        return Ok(());
    }
    let old = store.with_extension("old");
    let failed = || format!("cannot move {} to {}", store.display(), old.display());
    let older = store.with_extension("older");
    match fs::remove_dir_all(&older) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    if old.exists() {
        fs::rename(&old, &older).with_context(failed)?;
    }
    fs::rename(store, &old).with_context(failed)
}

#[cfg(test)]
mod tests {
    use model::masters::MembersV1;

    use super::*;

    fn opened(dirs: &Dirs) -> Store {
        Store::open(crate::io::store::Options::new(dirs.store())).expect("a store")
    }

    #[tokio::test]
    async fn whoever_founded_a_group_and_lost_its_log_founds_no_second_one() {
        let root = std::env::temp_dir().join(format!("kumquat-noted-{}", std::process::id()));
        let _gone = fs::remove_dir_all(&root);
        let dirs = Dirs::new(&root, &root);
        fs::create_dir_all(&root).expect("tmp");
        let store = opened(&dirs);
        Mastership::begin_promotion(&dirs).expect("nothing to keep");
        assert_eq!(Mastership::load(&dirs).expect("readable"), None, "it leads alone");
        Mastership::note(&dirs, MemberId(1), 1).expect("kept");
        let known = Mastership::load(&dirs).expect("readable").expect("there");
        assert!(known.is_lost(&store), "no vote");
        Mastership::begin_promotion(&dirs).expect("kept");
        let known = Mastership::load(&dirs).expect("readable").expect("there");
        assert!(known.promoting && known.is_lost(&store), "there is nothing to lead with");
        store.lead_alone(Box::new(())).await.expect("leads");
        store.close().await;
        let store = opened(&dirs);
        assert!(known.is_lost(&store), "the epoch is that of the others");
        let fenced = Mastership { epoch: 0, ..known };
        assert!(!fenced.is_lost(&store), "what it was promoted with");
        Mastership::note(&dirs, MemberId(1), 1).expect("kept");
        let known = Mastership::load(&dirs).expect("readable").expect("there");
        assert!(!known.promoting && known.is_lost(&store), "that came to nothing");
        store.close().await;
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_kit_makes_a_worker_a_master_and_back() {
        let root = std::env::temp_dir().join(format!("kumquat-kit-{}", std::process::id()));
        let _gone = fs::remove_dir_all(&root);
        let (boss, own) = (root.join("boss"), Dirs::new(&root.join("own"), &root.join("own")));
        let now = Timestamp(1_700_000_000_000_000);
        let pki = Pki::open(&boss, now).expect("an authority");
        let key = BoardKey::open(&own.data).expect("a key");
        let issue = |is_master| pki.issue_board("pi-2", &key.public_key(), is_master);
        let plain = issue(false).expect("a certificate");
        Credentials::save(&own.data, &key, &plain, pki.ca_certificate()).expect("joined");
        fs::create_dir_all(own.store().join("log")).expect("a store of an earlier member");
        assert_eq!(Mastership::load(&own).expect("readable"), None);
        let token_keys = TokenKeys::open(&boss).expect("keys");
        let pems = token_keys.pems().into_iter();
        let kit = KitV1 {
            member: MemberId(4),
            epoch: 2,
            authority_key: SecretBytes(pki.authority_key()),
            secrets_keys: SecretsKeys::open(&boss).expect("keys").export(),
            token_keys: pems.map(|pem| SecretBytes(pem.into_bytes())).collect(),
            certificate: issue(true).expect("a certificate"),
            members: MembersV1::default(),
            masters: Vec::new(),
            group: None,
        };
        Mastership::take(&own, &kit).expect("taken over");
        let known = Mastership::load(&own).expect("readable");
        assert_eq!(
            known,
            Some(Mastership {
                member: MemberId(4),
                epoch: 2,
                masters: Vec::new(),
                entered: false,
                promoting: false
            })
        );
        assert!(!own.store().exists(), "the log begins anew");
        let same = Pki::open(&own.data, now).expect("the authority");
        assert_eq!(same.pin(), pki.pin());
        let same = TokenKeys::open(&own.data).expect("keys");
        assert_eq!(same.pems(), token_keys.pems(), "tokens are good whoever leads");
        let credentials = Credentials::load(&own.data).expect("readable").expect("there");
        assert!(credentials.peer().is_master);
        let stranger = Pki::open(&root.join("stranger"), now).expect("an authority");
        let other = KitV1 { authority_key: SecretBytes(stranger.authority_key()), ..kit };
        Mastership::take(&own, &other).expect_err("another cluster's key");
        let [ours, theirs] = [&own.data, &boss].map(|it| SecretsKeys::open(it).expect("keys"));
        assert_eq!(ours.export(), theirs.export());
        fs::create_dir_all(own.store().join("log")).expect("its log");
        assert!(!Mastership::left_keys(&own));
        Mastership::step_down(&own).expect("stepped down");
        assert_eq!(Mastership::load(&own).expect("readable"), None);
        assert!(own.data.join("pki/ca.key").exists(), "nobody leads it yet");
        assert!(Mastership::left_keys(&own));
        assert!(own.store().with_extension("old").exists());
        assert!(own.store().with_extension("older").exists(), "of the member before");
        Mastership::forget_keys(&own, "pi-2", now).expect("led again");
        assert!(!own.data.join("pki/ca.key").exists() && !Mastership::left_keys(&own));
        let credentials = Credentials::load(&own.data).expect("readable").expect("there");
        assert!(!credentials.peer().is_master, "it leads nobody with its certificate");
        Mastership::forget_keys(&own, "pi-2", now).expect("nothing is left to do");
        fs::remove_dir_all(root).expect("removable");
    }
}
