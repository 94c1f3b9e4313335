//! The key folder of a board: `<data-dir>/pki/{ca.key, ca.crt, api.pem, admin.pem}`.
//! (`board.pem` beside them is [`super::BoardKey`]'s.)
//!
//! The authority is made once; its key is written before its certificate, so a power cut between
//! them leaves a key from which the certificate is made again. The API's and the admin's pairs are
//! derived: when missing, damaged, outdated or without a name they are issued again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use model::limits::SERVER_NAMES_MAX;
use model::timestamp::Timestamp;
use rcgen::{KeyPair, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::issue::{self, Pair};
use super::server::{self, Usage};
use super::{ServerNames, TlsError, board, file, kubeconfig, peer, signed};

/// The admin's certificate is replaced when it has less than this to live (a year).
const ADMIN_RENEW_SECONDS: i64 = 365 * 86_400;
/// The API's is replaced when another one would live so much longer: it is a year old then.
const SERVER_RENEW_SECONDS: i64 = 365 * 86_400;

/// The cluster's certificate authority and what it has signed for this board.
pub struct Pki {
    folder: PathBuf,
    ca: String,
    ca_der: CertificateDer<'static>,
    ca_key: KeyPair,
    admin: RwLock<Pair>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Pki {
    /// Loads the authority from `<data_dir>/pki`, or founds it in an empty folder.
    ///
    /// # Errors
    /// [`TlsError::Damaged`] when an authority exists but cannot be used; it is left as it is.
    pub fn open(data_dir: &Path, now: Timestamp) -> Result<Self, TlsError> {
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        let (ca, ca_key) = open_authority(&folder)?;
        let ca_der = first_certificate(&ca).ok_or_else(|| TlsError::Damaged {
            path: folder.join("ca.crt"),
            why: "not a PEM certificate".into(),
        })?;
        let admin = open_admin(&folder, &ca, &ca_der, &ca_key, now)?;
        Ok(Self { folder, ca, ca_der, ca_key, admin: RwLock::new(admin) })
    }

    /// The authority's certificate as PEM: what clients trust (`kube-root-ca.crt`).
    pub fn ca_certificate(&self) -> &str {
        &self.ca
    }

    /// A kubeconfig with the admin's certificate and key inside.
    pub fn admin_kubeconfig(&self, cluster: &str, server_url: &str) -> String {
        let admin = self.admin.read().unwrap_or_else(PoisonError::into_inner);
        kubeconfig::text(cluster, server_url, &self.ca, &admin)
    }

    /// Issues the admin's certificate again when its end is near; whether it was.
    ///
    /// # Errors
    /// The disk's; the old one stays then.
    pub fn renew(&self, now: Timestamp) -> Result<bool, TlsError> {
        let fresh = open_admin(&self.folder, &self.ca, &self.ca_der, &self.ca_key, now)?;
        let mut admin = self.admin.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *admin != fresh;
        *admin = fresh;
        Ok(is_new)
    }

    /// A board's certificate as PEM, for its Ed25519 public key (DER SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Another kind of key.
    pub fn issue_board(
        &self,
        name: &str,
        public_key: &[u8],
        is_master: bool,
    ) -> Result<String, TlsError> {
        issue::board(&self.ca, &self.ca_key, name, public_key, is_master)
    }

    /// Signs what boards check with [`super::verify`]: ECDSA P-256, SHA-256, ASN.1.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.ca_key
            .sign(&[signed::SIGNED, bytes].concat())
            .expect("a loaded key needs nothing but the system's randomness")
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo: what a token carries.
    pub fn pin(&self) -> [u8; 32] {
        board::spki_hash(&self.ca_der).expect("parsed when the authority was opened")
    }

    /// The authority's key, PKCS #8: for a board that becomes a master.
    pub fn authority_key(&self) -> Vec<u8> {
        self.ca_key.serialize_der()
    }

    /// The same key of a board that does not run; `None` on one that is no master.
    ///
    /// # Errors
    /// The disk's, or the file cannot be used.
    pub fn authority_key_at(data_dir: &Path) -> Result<Option<Vec<u8>>, TlsError> {
        let path = data_dir.join("pki/ca.key");
        let Some(pem) = file::read(&path)? else { return Ok(None) };
        let why = "the authority's key is unreadable";
        let key = KeyPair::from_pem(&pem).map_err(|_| TlsError::Mismatch { why })?;
        Ok(Some(key.serialize_der()))
    }

    /// Puts the authority's key beside its certificate, which an earlier join has left there: from
    /// then on [`Pki::open`] finds both.
    ///
    /// # Errors
    /// The key is not that certificate's, and nothing is written; or the disk's.
    pub fn install(data_dir: &Path, key: &[u8]) -> Result<(), TlsError> {
        let wrong = |why| TlsError::Mismatch { why };
        let folder = data_dir.join("pki");
        let certificate = file::read(&folder.join("ca.crt"))?.unwrap_or_default();
        let certificate =
            first_certificate(&certificate).ok_or(wrong("there is no authority's certificate"))?;
        let der = PrivatePkcs8KeyDer::from(key);
        let key =
            KeyPair::try_from(&der).map_err(|_| wrong("the authority's key is unreadable"))?;
        if peer::public_key(&certificate).as_deref() != Some(key.public_key_raw()) {
            return Err(wrong("the key is another authority's"));
        }
        file::write(&folder.join("ca.key"), &key.serialize_pem(), file::SECRET)
    }

    /// Puts certificate and key of an authority into a folder without one.
    ///
    /// # Errors
    /// As [`Pki::install`].
    pub fn restore(data_dir: &Path, certificate: &str, key: &[u8]) -> Result<(), TlsError> {
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        file::write(&folder.join("ca.crt"), certificate, file::PUBLIC)?;
        Self::install(data_dir, key)
    }

    /// Certificate (PEM) and key (PKCS #8) of another authority, which are kept nowhere yet.
    ///
    /// # Errors
    /// The system's randomness.
    pub fn another() -> Result<(String, Vec<u8>), TlsError> {
        let key = issue::new_key("kumquat-ca")?;
        Ok((issue::authority(&key)?, key.serialize_der()))
    }

    /// Puts another authority in place of the one that is there. What that one has signed for this
    /// board is issued anew when it is opened. A power cut between the two files is mended by calling this
    /// again.
    ///
    /// # Errors
    /// The key is not that certificate's, and nothing is written; or the disk's.
    pub fn replace(data_dir: &Path, certificate: &str, key: &[u8]) -> Result<(), TlsError> {
        if !Self::is_pair(certificate, key) {
            return Err(TlsError::Mismatch { why: "the key is another authority's" });
        }
        Self::restore(data_dir, certificate, key)
    }

    /// Whether this key (PKCS #8) is that of the authority with this certificate (PEM).
    pub fn is_pair(certificate: &str, key: &[u8]) -> bool {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key));
        let (Some(certificate), Ok(key)) = (first_certificate(certificate), key) else {
            return false;
        };
        peer::public_key(&certificate).as_deref() == Some(key.public_key_raw())
    }

    /// Takes the authority's key away again, and what only a master has.
    ///
    /// # Errors
    /// The disk's.
    pub fn uninstall(data_dir: &Path) -> Result<(), TlsError> {
        for name in ["ca.key", "api.pem", "admin.pem", "tokens.key", "secrets.key"] {
            file::remove(&data_dir.join("pki").join(name))?;
        }
        Ok(())
    }

    pub(super) fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// The API's certificate and key for these names at least. A stored pair that covers them stays for
    /// a year; a new one covers the names of the stored one too, as far as there is room, so that an address
    /// that comes and goes costs one write.
    pub(super) fn server_pair(
        &self,
        names: &ServerNames,
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let stored = read_pair(&self.folder, "api")?.and_then(|stored| decode(&stored));
        let usable =
            stored.filter(|pair| server::is_signed_by(&pair.0, &self.ca_der, Usage::Server));
        let mut wanted = names.clone();
        if let Some(usable) = usable
            && let Some(covered) = peer::server_names(&usable.0)
        {
            let end = peer::not_after(&usable.0).unwrap_or_default();
            if covered.covers(names) && issue::server_end(now) - end < SERVER_RENEW_SECONDS {
                return Ok(usable);
            }
            wanted.add(covered, SERVER_NAMES_MAX);
        }
        let pair = issue::server(&self.ca, &self.ca_key, &wanted, now)?;
        write_pair(&self.folder, "api", &pair)?;
        Ok(decode(&pair).expect("PEM that was made one line above"))
    }
}

fn open_authority(folder: &Path) -> Result<(String, KeyPair), TlsError> {
    let (key_path, path) = (folder.join("ca.key"), folder.join("ca.crt"));
    let damaged = |path: &Path, why: &str| TlsError::Damaged { path: path.into(), why: why.into() };
    let stored_certificate = file::read(&path)?;
    let key = match file::read(&key_path)? {
        Some(pem) => {
            KeyPair::from_pem(&pem).map_err(|error| damaged(&key_path, &error.to_string()))?
        }
        None if stored_certificate.is_some() => {
            return Err(damaged(&key_path, "missing beside ca.crt"));
        }
        None => {
            let key = issue::new_key("kumquat-ca")?;
            file::write(&key_path, &key.serialize_pem(), file::SECRET)?;
            key
        }
    };
    let certificate = match stored_certificate {
        Some(text) => text,
        None => {
            let text = issue::authority(&key)?;
            file::write(&path, &text, file::PUBLIC)?;
            text
        }
    };
    let der = first_certificate(&certificate).ok_or_else(|| damaged(&path, "not a certificate"))?;
    if peer::public_key(&der).as_deref() != Some(key.public_key_raw()) {
        return Err(damaged(&path, "its key is not the one in ca.key"));
    }
    Ok((certificate, key))
}

fn open_admin(
    folder: &Path,
    ca: &str,
    ca_der: &CertificateDer<'static>,
    ca_key: &KeyPair,
    now: Timestamp,
) -> Result<Pair, TlsError> {
    if let Some(stored) = read_pair(folder, "admin")?
        && let Some((certificate, _)) = decode(&stored)
        && peer::not_after(&certificate)
            .is_some_and(|end| end - ADMIN_RENEW_SECONDS > now.seconds())
        && server::is_signed_by(&certificate, ca_der, Usage::Client)
    {
        return Ok(stored);
    }
    let pair = issue::admin(ca, ca_key, now)?;
    write_pair(folder, "admin", &pair)?;
    Ok(pair)
}

/// One file for certificate and key: a power cut cannot leave a pair that does not match.
fn read_pair(folder: &Path, name: &str) -> Result<Option<Pair>, TlsError> {
    let Some(text) = file::read(&folder.join(format!("{name}.pem")))? else { return Ok(None) };
    let Some(at) = text.find("-----BEGIN PRIVATE KEY-----") else { return Ok(None) };
    let (certificate, key) = text.split_at(at);
    Ok(Some(Pair { certificate: certificate.into(), key: key.into() }))
}

fn write_pair(folder: &Path, name: &str, pair: &Pair) -> Result<(), TlsError> {
    let text = format!("{}{}", pair.certificate, pair.key);
    file::write(&folder.join(format!("{name}.pem")), &text, file::SECRET)
}

fn decode(pair: &Pair) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).ok()?;
    Some((first_certificate(&pair.certificate)?, key))
}

/// The pin of an authority, by its certificate as PEM; `None` when that cannot be read.
pub fn pin_of(certificate: &str) -> Option<[u8; 32]> {
    board::spki_hash(&first_certificate(certificate)?)
}

pub(super) fn first_certificate(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}
