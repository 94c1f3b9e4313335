//! How boards judge each other's certificates, as verifiers for rustls.
//!
//! All of them ask at one fixed moment, at which every certificate of ours is valid: dates play no
//! part between boards, and none of them looks at a host name.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::board::{BoardPeer, board_peer, spki_hash};
use super::{Clients, TlsError};

/// September 2020: every certificate of ours starts in January of that year and lives for years.
const MOMENT: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_600_000_000));

fn not_ours() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn roots(authority: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(roots)
}

/// Whether the authority signed this board's certificate.
pub(super) fn is_board_of(
    leaf: &CertificateDer<'static>,
    authority: &CertificateDer<'static>,
) -> bool {
    let provider = Arc::new(ring::default_provider());
    KnownBoard::new(authority, Clients::Required, Pins(Arc::new(Nobody)), &provider)
        .is_ok_and(|verifier| verifier.verify_client_cert(leaf, &[], MOMENT).is_ok())
}

fn check_master(
    leaf: &CertificateDer<'_>,
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<ServerCertVerified, Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, &[], MOMENT, algorithms)?;
    match board_peer(std::slice::from_ref(leaf)) {
        Ok(peer) if peer.is_master => Ok(ServerCertVerified::assertion()),
        _ => Err(not_ours()),
    }
}

fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, algorithms)
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

/// Boards that count by their key alone, whichever authority has signed their certificates.
pub trait Pinned: Send + Sync {
    /// Whether the board of this name has this key.
    fn is_board(&self, board: &BoardPeer) -> bool;
    /// Whether it is a master besides.
    fn is_master(&self, board: &BoardPeer) -> bool;
}

/// Nobody.
pub(super) struct Nobody;

impl Pinned for Nobody {
    fn is_board(&self, _: &BoardPeer) -> bool {
        false
    }

    fn is_master(&self, _: &BoardPeer) -> bool {
        false
    }
}

/// Who is asked about a key; says nothing of it.
#[derive(Clone)]
pub(super) struct Pins(pub(super) Arc<dyn Pinned>);

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}

/// On a server: boards of this cluster.
#[derive(Debug)]
pub(super) struct KnownBoard {
    inner: Arc<dyn ClientCertVerifier>,
    clients: Clients,
    pins: Pins,
}

impl KnownBoard {
    pub(super) fn new(
        authority: &CertificateDer<'static>,
        clients: Clients,
        pins: Pins,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(authority)?);
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        Ok(Self { inner, clients, pins })
    }
}

impl ClientCertVerifier for KnownBoard {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // The authority also signs what is not a board's: the admin's, for one.
        let board = board_peer(std::slice::from_ref(end_entity)).map_err(|_| not_ours())?;
        match self.inner.verify_client_cert(end_entity, &[], MOMENT) {
            // The handshake proves that it has the key.
            Err(_) if self.pins.0.is_board(&board) => Ok(ClientCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// On a client that knows the authority: any master of the cluster, or the one of that name.
#[derive(Debug)]
pub(super) struct AnyMaster {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    /// The only one, if it is known who leads.
    name: Option<String>,
    pins: Pins,
}

impl AnyMaster {
    pub(super) fn new(
        authority: &CertificateDer<'static>,
        provider: &Arc<CryptoProvider>,
        name: Option<&str>,
        pins: Pins,
    ) -> Result<Self, TlsError> {
        let name = name.map(str::to_owned);
        Ok(Self { roots: roots(authority)?, provider: provider.clone(), name, pins })
    }
}

/// On a client that knows only the pin: a master whose chain ends in the authority with that pin.
#[derive(Debug)]
pub(super) struct PinnedMaster {
    pub(super) pin: [u8; 32],
    pub(super) provider: Arc<CryptoProvider>,
}

/// On a client that knows no authority yet: a master of whichever cluster, with the authority that it
/// names itself, or a board without a cluster that signed its certificate itself. Who it is has to be
/// proven otherwise, by a secret or by a person.
#[derive(Debug)]
pub(super) struct Unpinned {
    pub(super) provider: Arc<CryptoProvider>,
}

/// The server verifiers differ in where the authority comes from only.
macro_rules! server_verifier {
    ($name:ty, $verify:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _server_name: &ServerName<'_>,
                _ocsp_response: &[u8],
                _now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                $verify(self, end_entity, intermediates)
            }

            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _certificate: &CertificateDer<'_>,
                _signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(no_tls12())
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                check_signature(&self.provider, message, certificate, signature)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.provider.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}

server_verifier!(AnyMaster, |own: &AnyMaster,
                             leaf: &CertificateDer<'_>,
                             _rest: &[CertificateDer<'_>]| {
    let board = board_peer(std::slice::from_ref(leaf)).map_err(|_| not_ours())?;
    let verified = match check_master(leaf, &own.roots, &own.provider) {
        // The handshake proves that it has the key.
        Err(_) if own.pins.0.is_master(&board) => ServerCertVerified::assertion(),
        verified => verified?,
    };
    match &own.name {
        Some(name) if *name != board.name => Err(not_ours()),
        _ => Ok(verified),
    }
});
server_verifier!(PinnedMaster, |own: &PinnedMaster,
                                leaf: &CertificateDer<'_>,
                                rest: &[CertificateDer<'_>]| {
    let pinned = rest.iter().find(|certificate| spki_hash(certificate) == Some(own.pin));
    let authority = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
    check_master(leaf, &roots(authority)?, &own.provider)
});

server_verifier!(Unpinned, |own: &Unpinned,
                            leaf: &CertificateDer<'_>,
                            rest: &[CertificateDer<'_>]| {
    match rest.first() {
        Some(authority) => check_master(leaf, &roots(authority)?, &own.provider),
        None => board_peer(std::slice::from_ref(leaf))
            .map(|_| ServerCertVerified::assertion())
            .map_err(|_| not_ours()),
    }
});

/// Always shows the same certificate.
#[derive(Debug)]
pub(super) struct OneKey(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for OneKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for OneKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
