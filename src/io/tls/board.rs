//! A board's own key, and which board a certificate names.
//!
//! The key is Ed25519, made on the board and never sent anywhere: `<data-dir>/pki/board.pem` holds it
//! alone until the board has joined, and together with its certificate from then on (one file, so that
//! a power cut cannot leave a pair that does not match). A board that tries again to join shows the
//! same key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{BadCertificate, PeerIdentity, TlsError, file, peer, signed};

/// Group of every board's certificate, as in Kubernetes.
pub(super) const NODES: &str = "system:nodes";
/// Group that a board must have to act as a master towards other boards.
pub(super) const MASTERS: &str = "kumquat:masters";
/// What precedes the board's name in its common name, as in Kubernetes.
pub(super) const USER_PREFIX: &str = "system:node:";
const KEY_START: &str = "-----BEGIN PRIVATE KEY-----";

/// The board that a certificate of the cluster's authority names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BoardPeer {
    /// Name of the board and of its Node.
    pub name: String,
    /// SHA-256 of its SubjectPublicKeyInfo: which board this is, whatever it is called.
    pub key: [u8; 32],
    /// Whether it may act as a master.
    pub is_master: bool,
}

/// Which board presented this chain. The chain must have been verified before, as every connection
/// of [`super::Credentials`] does in its handshake.
///
/// # Errors
/// The certificate is not a board's.
pub fn board_peer(chain: &[CertificateDer<'_>]) -> Result<BoardPeer, BadCertificate> {
    let end = chain.first().ok_or(BadCertificate)?;
    BoardPeer::of(&peer::identity(end)?, spki_hash(end).ok_or(BadCertificate)?)
}

impl BoardPeer {
    /// The board that has this identity and a key of that hash.
    ///
    /// # Errors
    /// The identity is not a board's.
    pub fn of(identity: &PeerIdentity, key: [u8; 32]) -> Result<Self, BadCertificate> {
        let name = identity.name.strip_prefix(USER_PREFIX).ok_or(BadCertificate)?;
        let is_in = |group: &str| identity.groups.iter().any(|found| found == group);
        if name.is_empty() || !is_in(NODES) {
            return Err(BadCertificate);
        }
        Ok(Self { name: name.into(), key, is_master: is_in(MASTERS) })
    }
}

/// The pin of the authority that a server named in the chain that it showed; `None` when it named none.
pub fn authority_pin(chain: &[CertificateDer<'_>]) -> Option<[u8; 32]> {
    spki_hash(chain.get(1)?)
}

/// SHA-256 of the certificate's SubjectPublicKeyInfo.
pub(super) fn spki_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

/// The key pair of a board; clones share it.
#[derive(Clone)]
pub struct BoardKey {
    pub(super) pair: Arc<KeyPair>,
}

impl fmt::Debug for BoardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardKey").finish_non_exhaustive()
    }
}

impl BoardKey {
    /// The key in `<data_dir>/pki/board.pem`, made and written there at the first call.
    ///
    /// # Errors
    /// A file that is damaged (it is left as it is) or cannot be read or written.
    pub fn open(data_dir: &Path) -> Result<Self, TlsError> {
        if let Some((key, _)) = read(data_dir)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        file::write(&folder.join("board.pem"), &key.pair.serialize_pem(), file::SECRET)?;
        Ok(key)
    }

    /// A new key that is kept nowhere.
    ///
    /// # Errors
    /// The system's randomness.
    pub fn generate() -> Result<Self, TlsError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|source| TlsError::Issue { subject: "board".into(), source })?;
        Ok(Self { pair: Arc::new(pair) })
    }

    /// The public key as DER SubjectPublicKeyInfo: what a certificate is issued for.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// A signature over a label and the parts, each with its length: what [`super::verify_board`] checks.
    pub fn sign(&self, label: &str, parts: &[&[u8]]) -> Vec<u8> {
        let message = signed::message(label, parts);
        self.pair.sign(&message).expect("Ed25519 needs nothing but the key")
    }

    /// SHA-256 of [`BoardKey::public_key`], as in [`BoardPeer::key`].
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.public_key()).into()
    }
}

/// The board's key and the text of its certificate (empty before it has joined).
pub(super) fn read(data_dir: &Path) -> Result<Option<(BoardKey, String)>, TlsError> {
    let path = data_dir.join("pki/board.pem");
    let Some(text) = file::read(&path)? else { return Ok(None) };
    let damaged = |why: String| TlsError::DamagedBoard { path: path.clone(), why };
    let at = text.find(KEY_START).ok_or_else(|| damaged("no private key in it".into()))?;
    let (certificate, key) = text.split_at(at);
    let pair = KeyPair::from_pem(key).map_err(|error| damaged(error.to_string()))?;
    Ok(Some((BoardKey { pair: Arc::new(pair) }, certificate.into())))
}
