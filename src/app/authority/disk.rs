//! Keys of another authority on the disk of a master.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::join::key_text;
use model::limits::KIT_BYTES_MAX;
use model::masters::{AuthorityKeysV1, CertifiedV1, MasterAtV1, MemberV1, SecretBytes};
use model::timestamp::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use super::gain::may_take;
use super::serve::Desk;
use super::{HAS, KEYS};
use crate::app::dirs::Dirs;
use crate::app::identity::Identity;
use crate::app::membership::Membership;
use crate::io::durable;
use crate::io::peer::{self, ALPN, Connection};
use crate::io::store::SecretsKeys;
use crate::io::tls::{BoardKey, Credentials, Pki, TokenKeys, pin_of};
use crate::master::authority::{Disk, Doing};
use crate::master::elector::Book;
use crate::master::keys::Keys;

const NEXT: &str = "pki/next.json";
const TAKING: &str = "pki/taking.json";
const CERTIFIED: &str = "pki/certified.json";
const GROUP: &str = "pki/group";
/// How long another master may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a master does with keys of another authority.
pub(in crate::app) struct AuthorityDisk {
    /// Its folder.
    pub(in crate::app) data: PathBuf,
    /// Who it is, and under which authority.
    pub(in crate::app) credentials: Credentials,
    /// What Secrets are sealed with.
    pub(in crate::app) secrets_keys: SecretsKeys,
    /// Where the other masters are.
    pub(in crate::app) book: watch::Receiver<Book>,
}

impl AuthorityDisk {
    /// What gives others of it.
    pub(in crate::app) fn desk(
        &self,
        pki: Arc<Pki>,
        token_keys: TokenKeys,
        keys: Keys,
    ) -> Arc<Desk> {
        let (data, secrets_keys) = (self.data.clone(), self.secrets_keys.clone());
        Arc::new(Desk { data, pki, token_keys, secrets_keys, keys, book: self.book.clone() })
    }
}

impl Disk for AuthorityDisk {
    fn own(&self) -> [u8; 32] {
        self.credentials.pin()
    }

    fn ready(&self) -> Option<[u8; 32]> {
        ready(&self.data).map(|(pin, _)| pin)
    }

    fn make(&self) -> Doing<String> {
        let (data, secrets_keys) = (self.data.clone(), self.secrets_keys.clone());
        Box::pin(async move {
            let making = tokio::task::spawn_blocking(move || make(&data, &secrets_keys));
            let made = making.await.map_err(|error| error.to_string())?;
            made.map_err(|error| format!("{error:#}"))
        })
    }

    fn fetch(&self, pin: [u8; 32]) -> Doing<()> {
        let (data, credentials) = (self.data.clone(), self.credentials.clone());
        let book = self.book.borrow().clone();
        Box::pin(async move {
            let mut why = "no other master is known".to_owned();
            for at in book.iter().filter(|at| at.key != credentials.peer().key) {
                match fetch(at, &credentials, pin).await {
                    Ok(keys) => {
                        let kept = tokio::task::spawn_blocking(move || write(&data, NEXT, &keys));
                        let kept = kept.await.map_err(|error| error.to_string())?;
                        return kept.map_err(|error| format!("{error:#}"));
                    }
                    Err(error) => why = format!("{}: {error}", at.board),
                }
            }
            Err(why)
        })
    }

    fn has(&self, member: MemberV1, pin: [u8; 32]) -> Doing<bool> {
        if member.key == self.credentials.peer().key {
            let has = self.ready() == Some(pin);
            return Box::pin(std::future::ready(Ok(has)));
        }
        let credentials = self.credentials.clone();
        let book = self.book.borrow().clone();
        Box::pin(async move {
            let Some(at) = book.iter().find(|at| at.key == member.key) else { return Ok(false) };
            Ok(get(at, HAS, &credentials, pin).await.is_ok())
        })
    }
}

async fn fetch(
    at: &MasterAtV1,
    credentials: &Credentials,
    pin: [u8; 32],
) -> Result<AuthorityKeysV1, String> {
    let body = get(at, KEYS, credentials, pin).await?;
    let keys: AuthorityKeysV1 = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let fits = pin_of(&keys.authority) == Some(pin)
        && Pki::is_pair(&keys.authority, &keys.authority_key.0)
        && !keys.token_keys.is_empty()
        && !keys.secrets_keys.is_empty();
    if fits { Ok(keys) } else { Err("its keys are not those that were offered".into()) }
}

/// Asks a master, which has to be the one that the book names.
async fn get(
    at: &MasterAtV1,
    path: &str,
    credentials: &Credentials,
    pin: [u8; 32],
) -> Result<bytes::Bytes, String> {
    let tls = credentials.client_config(ALPN).map_err(|error| error.to_string())?;
    let mut why = "it has no address".to_owned();
    for address in &at.addresses {
        let address = (*address, at.peer_port).into();
        let asking = async {
            let opened = Connection::open(address, tls.clone(), ANSWER_WITHIN).await;
            let connection = opened.map_err(|error| error.to_string())?;
            if connection.master().key != at.key {
                return Err(format!("{address} is another board"));
            }
            let request = Request::get(format!("{path}?pin={}", key_text(&pin)));
            let request = request.body(peer::empty()).map_err(|error| error.to_string())?;
            let answer: Response<Incoming> =
                connection.send(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = peer::read(answer.into_body(), KIT_BYTES_MAX).await?;
            match status {
                StatusCode::OK => Ok(body),
                _ => Err(format!("it answers {status}")),
            }
        };
        match timeout(ANSWER_WITHIN, asking).await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(error)) => why = error,
            Err(_) => why = format!("{address} does not answer in time"),
        }
    }
    Err(why)
}

/// The keys that lie ready, with the authority's pin.
pub(super) fn ready(data: &Path) -> Option<([u8; 32], AuthorityKeysV1)> {
    let keys: AuthorityKeysV1 = read(data, NEXT).ok().flatten()?;
    Some((pin_of(&keys.authority)?, keys))
}

fn make(data: &Path, secrets_keys: &SecretsKeys) -> Result<String> {
    let (authority, key) = Pki::another()?;
    let keys = AuthorityKeysV1 {
        authority: authority.clone(),
        authority_key: SecretBytes(key),
        token_keys: vec![SecretBytes(TokenKeys::another()?.into_bytes())],
        secrets_keys: secrets_keys.with_another()?,
    };
    write(data, NEXT, &keys)?;
    Ok(authority)
}

/// Takes the keys of that authority over, if they lie ready. A power cut leaves them to [`finish`].
///
/// # Errors
/// None or others lie there, or the disk refuses.
pub(in crate::app) fn take_ready(dirs: &Dirs, pin: [u8; 32], now: Timestamp) -> Result<()> {
    let (_, keys) = ready(&dirs.data)
        .filter(|(ready, _)| *ready == pin)
        .context("the keys of the new authority are not here")?;
    // What was looked at, whatever is made meanwhile. The room of what is removed is what the rest needs.
    write(&dirs.data, TAKING, &keys)?;
    remove(&dirs.data, NEXT)?;
    finish(dirs, now)
}

/// Keeps a board's certificate of another authority, and who the masters are under it. What is left of the
/// earlier one's keys counts no more, and goes.
///
/// # Errors
/// The disk refuses, or the certificate is not this board's.
pub(in crate::app) fn keep(dirs: &Dirs, certified: &CertifiedV1, now: Timestamp) -> Result<()> {
    ensure!(may_take(dirs), "this board is a master still");
    let key = BoardKey::open(&dirs.data)?;
    Credentials::new(&key, &certified.certificate, &certified.authority)?;
    write(&dirs.data, CERTIFIED, certified)?;
    finish(dirs, now)
}

/// Finishes what a power cut has left.
///
/// # Errors
/// The disk refuses, or what lies there is damaged.
pub(in crate::app) fn finish(dirs: &Dirs, now: Timestamp) -> Result<()> {
    let data = &dirs.data;
    if let Some(keys) = read::<AuthorityKeysV1>(data, TAKING)? {
        // First: it is the half of the pin that is about to go.
        if group(data)?.is_none() {
            let pin = fs::read_to_string(data.join("pki/ca.crt"))?;
            let pin = pin_of(&pin).context("the authority's certificate is unreadable")?;
            set_group(data, Some(pin[..16].try_into().expect("the first half of 32 bytes")))?;
        }
        Pki::replace(data, &keys.authority, &keys.authority_key.0)?;
        let text = |pem: &SecretBytes| String::from_utf8_lossy(&pem.0).into_owned();
        TokenKeys::install(data, &keys.token_keys.iter().map(text).collect::<Vec<_>>())?;
        SecretsKeys::install(data, &keys.secrets_keys)?;
        let board = fs::read(dirs.board()).context("this board has no name")?;
        let board: Identity = serde_json::from_slice(&board)?;
        let (pki, key) = (Pki::open(data, now)?, BoardKey::open(data)?);
        let certificate = pki.issue_board(&board.name, &key.public_key(), true)?;
        Credentials::save(data, &key, &certificate, pki.ca_certificate())?;
        fs::remove_file(data.join(TAKING))?;
    }
    if let Some(certified) = read::<CertifiedV1>(data, CERTIFIED)? {
        if !dirs.master().exists() && !dirs.store().exists() {
            forget(data)?;
            Pki::uninstall(data)?;
        }
        // Before the certificate: the list of before may name who has stolen the earlier authority.
        if !certified.masters.is_empty() {
            let masters = certified.masters.clone();
            Membership { leader: None, masters }.save(dirs)?;
        }
        let key = BoardKey::open(data)?;
        Credentials::save(data, &key, &certified.certificate, &certified.authority)?;
        fs::remove_file(data.join(CERTIFIED))?;
    }
    Ok(())
}

/// Forgets keys that lie ready: this board is a master no more.
///
/// # Errors
/// The disk refuses.
pub(in crate::app) fn forget(data: &Path) -> io::Result<()> {
    remove(data, NEXT)?;
    remove(data, GROUP)
}

/// What names the group of masters in its messages, where that is not its authority's pin.
///
/// # Errors
/// The disk refuses, or the file is damaged.
pub(in crate::app) fn group(data: &Path) -> Result<Option<[u8; 16]>> {
    let path = data.join(GROUP);
    match fs::read(&path) {
        Ok(bytes) => {
            let group = bytes.try_into();
            group.map(Some).map_err(|_| anyhow::anyhow!("{} is damaged", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps that name; none is the authority's pin.
///
/// # Errors
/// The disk refuses.
pub(in crate::app) fn set_group(data: &Path, group: Option<[u8; 16]>) -> io::Result<()> {
    match group {
        Some(group) => durable::replace(&data.join(GROUP), &group, durable::PUBLIC),
        None => remove(data, GROUP),
    }
}

fn remove(data: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(data.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read<T: DeserializeOwned>(data: &Path, name: &str) -> Result<Option<T>> {
    let path = data.join(name);
    match fs::read(&path) {
        Ok(bytes) => {
            let read = serde_json::from_slice(&bytes);
            read.map(Some).with_context(|| format!("{} is damaged", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write<T: Serialize>(data: &Path, name: &str, what: &T) -> Result<()> {
    let path = data.join(name);
    durable::replace(&path, &serde_json::to_vec(what)?, durable::SECRET)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use model::masters::{MemberId, Part};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_305_600);

    fn folder(name: &str) -> Dirs {
        let root =
            std::env::temp_dir().join(format!("kumquat-another-{name}-{}", std::process::id()));
        let _none = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("tmp");
        let dirs = Dirs::new(&root, &root);
        let identity = r#"{"name":"pi-1","cluster":"c","id":"x",
            "pod_range":{"base":"10.42.0.0","prefix":16},
            "service_range":{"base":"10.43.0.0","prefix":16}}"#;
        fs::write(dirs.board(), identity).expect("written");
        dirs
    }

    fn copied(from: &Dirs, to: &Dirs) {
        for entry in fs::read_dir(from.data.join("pki")).expect("keys").flatten() {
            fs::create_dir_all(to.data.join("pki")).expect("made");
            fs::copy(entry.path(), to.data.join("pki").join(entry.file_name())).expect("copied");
        }
    }

    #[test]
    fn another_authority_is_taken_over_wherever_the_power_goes() {
        let dirs = folder("taken");
        let data = &dirs.data;
        let pki = Pki::open(data, NOW).expect("founded");
        Credentials::founder(&pki, data, "pi-1").expect("its own");
        let secrets = SecretsKeys::open(data).expect("made");
        let tokens = TokenKeys::open(data).expect("made");
        finish(&dirs, NOW).expect("nothing to do");
        assert!(take_ready(&dirs, [1; 32], NOW).is_err(), "nothing lies ready");
        let pin = pin_of(&make(data, &secrets).expect("made")).expect("a certificate");
        assert_eq!(ready(data).map(|(pin, _)| pin), Some(pin));
        assert_eq!(Pki::open(data, NOW).expect("still").pin(), pki.pin(), "it counts not yet");
        assert!(take_ready(&dirs, pki.pin(), NOW).is_err(), "others than were asked for");
        // Cut after the keys are named, and after each of the files.
        fs::rename(data.join(NEXT), data.join(TAKING)).expect("taken");
        let cut = folder("cut");
        copied(&dirs, &cut);
        for upto in 0..4 {
            let again = folder("again");
            copied(&cut, &again);
            let keys: AuthorityKeysV1 = read(&again.data, TAKING).expect("read").expect("there");
            let first = pki.pin()[..16].try_into().expect("half");
            if upto > 0 {
                set_group(&again.data, Some(first)).expect("kept");
            }
            if upto > 1 {
                let certificate = again.data.join("pki/ca.crt");
                fs::write(certificate, &keys.authority).expect("written");
            }
            if upto > 2 {
                Pki::replace(&again.data, &keys.authority, &keys.authority_key.0).expect("both");
            }
            finish(&again, NOW).expect("finished");
            let now = Pki::open(&again.data, NOW).expect("whole");
            assert_eq!(now.pin(), pin, "cut {upto}");
            assert_eq!(group(&again.data).expect("read"), Some(first), "cut {upto}");
            let own = Credentials::load(&again.data).expect("whole").expect("there");
            assert!(own.peer().is_master && own.pin() == pin && own.peer().name == "pi-1");
            let fresh = TokenKeys::open(&again.data).expect("whole");
            assert!(fresh.pems().iter().all(|pem| !tokens.pems().contains(pem)));
            let now = SecretsKeys::open(&again.data).expect("whole").export();
            assert_eq!(now[1..], secrets.export(), "what is sealed with them opens");
            assert_ne!(now[0].id, now[1].id);
            finish(&again, NOW).expect("nothing to do");
            // And once more: the group keeps its first name.
            let secrets = SecretsKeys::open(&again.data).expect("whole");
            let other = pin_of(&make(&again.data, &secrets).expect("made")).expect("a certificate");
            take_ready(&again, other, NOW).expect("taken over");
            assert!(!again.data.join(NEXT).exists() && !again.data.join(TAKING).exists());
            assert_eq!(group(&again.data).expect("read"), Some(first));
            forget(&again.data).expect("forgotten");
            assert_eq!(group(&again.data).expect("read"), None);
            fs::remove_dir_all(&again.data).expect("removable");
        }
        // What was opened before counts for whoever holds it still.
        assert_eq!(secrets.export().len(), 1);
        for dirs in [dirs, cut] {
            fs::remove_dir_all(&dirs.data).expect("removable");
        }
    }

    fn row(board: &str, key: u8) -> MasterAtV1 {
        MasterAtV1 {
            member: MemberId(key.into()),
            board: board.into(),
            key: [key; 32],
            addresses: Vec::new(),
            api_port: 0,
            mqtt_port: 0,
            peer_port: 0,
            part: Part::Voter,
        }
    }

    #[test]
    fn a_worker_keeps_a_certificate_that_is_its_own() {
        let (master, worker) = (folder("master"), folder("worker"));
        let pki = Pki::open(&master.data, NOW).expect("founded");
        let key = BoardKey::open(&worker.data).expect("made");
        let of = |key: &BoardKey| CertifiedV1 {
            authority: pki.ca_certificate().to_owned(),
            certificate: pki.issue_board("pi-1", &key.public_key(), false).expect("signed"),
            masters: vec![row("pi-2", 2)],
        };
        // It was a master, has stepped down, and knows who has stolen a disk for one.
        let earlier = Pki::open(&worker.data, NOW).expect("the keys of before");
        TokenKeys::open(&worker.data).expect("made");
        let masters = vec![row("pi-2", 2), row("thief", 9)];
        Membership { leader: None, masters }.save(&worker).expect("kept");
        let stranger = BoardKey::generate().expect("made");
        assert!(keep(&worker, &of(&stranger), NOW).is_err());
        fs::create_dir_all(worker.store()).expect("made");
        assert!(keep(&worker, &of(&key), NOW).is_err(), "it may be a master still");
        assert_eq!(Pki::open(&worker.data, NOW).expect("whole").pin(), earlier.pin());
        fs::remove_dir(worker.store()).expect("removed");
        keep(&worker, &of(&key), NOW).expect("kept");
        let own = Credentials::load(&worker.data).expect("whole").expect("there");
        assert_eq!((own.pin(), own.peer().key), (pki.pin(), key.hash()));
        assert!(!worker.data.join(CERTIFIED).exists());
        assert_eq!(
            Membership::load(&worker).masters,
            [row("pi-2", 2)],
            "whoever was evicted is not known"
        );
        for left in ["ca.key", "tokens.key", "secrets.key"] {
            assert!(
                !worker.data.join("pki").join(left).exists(),
                "{left} of an authority of before"
            );
        }
        for dirs in [master, worker] {
            fs::remove_dir_all(&dirs.data).expect("removable");
        }
    }
}
