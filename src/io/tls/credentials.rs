//! What a board shows to other boards, and how it judges them: the TLS set-up of ports 7443 and 8883.
//!
//! TLS 1.3 only, both ends ours. Dates and host names are ignored (boards have no clock battery and
//! change their addresses); what counts is the pinned authority's signature and, for whoever acts as
//! master, the group `kumquat:masters`. Nothing is kept for resumption: a board connects rarely, and
//! memory per connection is what a master has least of.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::board::{self, BoardKey, BoardPeer, board_peer};
use super::chain::{
    AnyMaster, KnownBoard, Nobody, OneKey, Pinned, PinnedMaster, Pins, Unpinned, is_board_of,
};
use super::{Pki, TlsError, file, issue, pki};

/// Which clients a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Boards of this cluster only.
    Required,
    /// Boards of this cluster, and strangers that show no certificate at all.
    Optional,
}

/// A board's key and certificate, and the authority it trusts; clones share them.
#[derive(Clone)]
pub struct Credentials {
    authority: CertificateDer<'static>,
    peer: BoardPeer,
    own: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    pins: Pins,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Credentials {
    /// What an earlier join left in `<data_dir>/pki/{board.pem, ca.crt}`; `None` before it.
    ///
    /// # Errors
    /// Files that are damaged or do not belong together; they are left as they are.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, TlsError> {
        let Some((key, certificate)) = board::read(data_dir)? else { return Ok(None) };
        if certificate.trim().is_empty() {
            return Ok(None);
        }
        let path = data_dir.join("pki/ca.crt");
        let Some(authority) = file::read(&path)? else { return Ok(None) };
        Self::new(&key, &certificate, &authority).map(Some)
    }

    /// Makes the outcome of a join durable. `certificate` and `authority` are PEM.
    ///
    /// # Errors
    /// Parts that do not belong together (nothing is written then), or the disk's.
    pub fn save(
        data_dir: &Path,
        key: &BoardKey,
        certificate: &str,
        authority: &str,
    ) -> Result<Self, TlsError> {
        let credentials = Self::new(key, certificate, authority)?;
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        // The authority first: a certificate in board.pem is what says that the join is complete.
        if file::read(&folder.join("ca.crt"))?.as_deref() != Some(authority) {
            file::write(&folder.join("ca.crt"), authority, file::PUBLIC)?;
        }
        let text = format!("{certificate}{}", key.pair.serialize_pem());
        file::write(&folder.join("board.pem"), &text, file::SECRET)?;
        Ok(credentials)
    }

    /// The credentials of the board that holds the authority: loaded, or issued by itself.
    ///
    /// # Errors
    /// As [`Credentials::save`] and [`Credentials::load`].
    pub fn founder(pki: &Pki, data_dir: &Path, name: &str) -> Result<Self, TlsError> {
        if let Ok(Some(stored)) = Self::load(data_dir)
            && stored.authority == *pki.ca_der()
            && stored.peer.is_master
            && stored.peer.name == name
        {
            return Ok(stored);
        }
        let key = BoardKey::open(data_dir)?;
        let certificate = pki.issue_board(name, &key.public_key(), true)?;
        Self::save(data_dir, &key, &certificate, pki.ca_certificate())
    }

    /// Credentials of these parts, kept nowhere. `certificate` and `authority` are PEM.
    ///
    /// # Errors
    /// The authority did not sign the certificate, it is not a board's, or not for this key.
    pub fn new(key: &BoardKey, certificate: &str, authority: &str) -> Result<Self, TlsError> {
        let wrong = |why| TlsError::Mismatch { why };
        let leaf = pki::first_certificate(certificate).ok_or(wrong("certificate unreadable"))?;
        let authority = pki::first_certificate(authority).ok_or(wrong("authority unreadable"))?;
        let peer = board_peer(std::slice::from_ref(&leaf))
            .map_err(|_| wrong("the certificate is not a board's"))?;
        if peer.key != key.hash() {
            return Err(wrong("the certificate is for another key"));
        }
        if !is_board_of(&leaf, &authority) {
            return Err(wrong("the authority did not sign the certificate"));
        }
        let provider = Arc::new(ring::default_provider());
        let der = PrivatePkcs8KeyDer::from(key.pair.serialize_der());
        let signer = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(der))?;
        // The authority goes along for boards that know only its pin.
        let own = Arc::new(CertifiedKey::new(vec![leaf, authority.clone()], signer));
        Ok(Self { authority, peer, own, provider, pins: Pins(Arc::new(Nobody)) })
    }

    /// The same, which also take boards by their keys alone: the cluster's authority may be another one
    /// meanwhile, here or there.
    #[must_use]
    pub fn pinning(self, pinned: Arc<dyn Pinned>) -> Self {
        Self { pins: Pins(pinned), ..self }
    }

    /// Whether this board is known as a master by its key alone.
    pub fn pins_master(&self, board: &BoardPeer) -> bool {
        self.pins.0.is_master(board)
    }

    /// Which board this is.
    pub fn peer(&self) -> &BoardPeer {
        &self.peer
    }

    /// The cluster's authority.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo: what a token carries.
    pub fn pin(&self) -> [u8; 32] {
        board::spki_hash(&self.authority).expect("parsed when the credentials were made")
    }

    /// For a port that other boards connect to.
    ///
    /// # Errors
    /// What the TLS library refuses.
    pub fn server_config(
        &self,
        clients: Clients,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier =
            KnownBoard::new(&self.authority, clients, self.pins.clone(), &self.provider)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OneKey(self.own.clone())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For connections to a master; only a master of this cluster is accepted.
    ///
    /// # Errors
    /// What the TLS library refuses.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
        self.towards(None, alpn)
    }

    /// For connections to the master on that board: whoever was a master has a certificate of one for
    /// ever, and must not pass for the leader.
    ///
    /// # Errors
    /// What the TLS library refuses.
    pub fn client_config_to(
        &self,
        leader: &str,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        self.towards(Some(leader), alpn)
    }

    fn towards(&self, name: Option<&str>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = AnyMaster::new(&self.authority, &self.provider, name, self.pins.clone())?;
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(OneKey(self.own.clone())));
        Ok(finish(config, alpn))
    }
}

/// For a board that has only a token yet: accepts a master whose authority has this pin, and shows no
/// certificate.
///
/// # Errors
/// What the TLS library refuses.
pub fn pinned_client_config(pin: [u8; 32], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = PinnedMaster { pin, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finish(config, alpn))
}

/// For a board that knows no authority yet: accepts a master of whichever cluster, and a board that
/// founds one ([`genesis_server_config`]). The handshake proves only that the server has the key of the
/// certificate that it shows; who it is must be proven otherwise.
///
/// # Errors
/// What the TLS library refuses.
pub fn unpinned_client_config(alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unpinned { provider }))
        .with_no_client_auth();
    Ok(finish(config, alpn))
}

/// For the port of a board that has no cluster yet: it shows a certificate that its own key signed, and
/// asks for none.
///
/// # Errors
/// What the TLS library refuses.
pub fn genesis_server_config(
    key: &BoardKey,
    name: &str,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let own = issue::self_signed_board(&key.pair, name)?;
    let der = PrivatePkcs8KeyDer::from(key.pair.serialize_der());
    let signer = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(der))?;
    let own = Arc::new(CertifiedKey::new(vec![own], signer));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OneKey(own)));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a server of somebody else's whose certificate one of these authorities (PEM) has signed; its
/// name and dates are judged as usual.
///
/// # Errors
/// There is no certificate in the text, or what the TLS library refuses.
pub fn trusting_config(authorities: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let certificate = certificate
            .map_err(|_| TlsError::Mismatch { why: "the authority's certificate is unreadable" })?;
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Mismatch { why: "the authority's file has no certificate" });
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn finish(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
