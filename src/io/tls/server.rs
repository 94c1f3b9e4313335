//! The TLS side of the API port: rustls configuration, own certificate, client certificates.
//!
//! As kube-apiserver does, the handshake takes any client certificate whose key the peer holds;
//! whether it is one of ours is asked afterwards, so that a wrong one is answered 401 and not cut.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use model::timestamp::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{BadCertificate, PeerIdentity, Pki, ServerNames, TlsError, peer};
use crate::io::clock::Clock;

/// What the API port needs of TLS; the certificate can be exchanged while it serves.
#[derive(Debug)]
pub struct ApiTls {
    config: Arc<ServerConfig>,
    own: Arc<OwnCertificate>,
    names: Mutex<ServerNames>,
    authority: Arc<dyn ClientCertVerifier>,
    clock: Clock,
}

impl ApiTls {
    /// Loads or issues the certificate for `names` and builds the configuration (h2, HTTP/1.1).
    ///
    /// # Errors
    /// Files that cannot be read or written, and what the TLS library refuses.
    pub fn new(pki: &Pki, names: &ServerNames, clock: Clock) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let own = Arc::new(OwnCertificate {
            key: RwLock::new(certified(pki, names, clock.now(), &provider)?),
        });
        let authority = client_verifier(pki.ca_der(), &provider)?;
        let any = AnyClient { hints: authority.root_hint_subjects().to_vec(), provider };
        let time = Arc::new(ClusterTime(clock.clone()));
        let mut config = ServerConfig::builder_with_details(any.provider.clone(), time)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(any))
            .with_cert_resolver(own.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Clients of this API do not resume sessions: keep no memory for it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let names = Mutex::new(names.clone());
        Ok(Self { config: Arc::new(config), own, names, authority, clock })
    }

    /// Exchanges the certificate for one of `names`; connections that exist keep theirs.
    ///
    /// # Errors
    /// As [`ApiTls::new`]; the old certificate then stays.
    pub fn set_names(&self, pki: &Pki, names: &ServerNames) -> Result<(), TlsError> {
        let fresh = certified(pki, names, self.clock.now(), self.config.crypto_provider())?;
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names.clone();
        *self.own.key.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Exchanges a certificate that is a year old for another one of the same names.
    ///
    /// # Errors
    /// As [`ApiTls::new`]; the old certificate then stays.
    pub fn renew(&self, pki: &Pki) -> Result<(), TlsError> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.set_names(pki, &names)
    }

    /// For the acceptor.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whose certificate chain this is, judged at the last time that could be trusted
    /// ([`Clock::confirmed`]).
    ///
    /// # Errors
    /// A chain that does not lead to the cluster's authority, or is out of date.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, BadCertificate> {
        let (end, rest) = chain.split_first().ok_or(BadCertificate)?;
        let now = unix_time(self.clock.confirmed());
        self.authority.verify_client_cert(end, rest, now).map_err(|_| BadCertificate)?;
        peer::identity(end)
    }
}

fn unix_time(time: Timestamp) -> UnixTime {
    let seconds = u64::try_from(time.seconds()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn certified(
    pki: &Pki,
    names: &ServerNames,
    now: Timestamp,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let (certificate, key) = pki.server_pair(names, now)?;
    let key = provider.key_provider.load_private_key(key)?;
    // The authority goes along for clients that pin it.
    Ok(Arc::new(CertifiedKey::new(vec![certificate, pki.ca_der().clone()], key)))
}

fn client_verifier(
    ca: &CertificateDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(ca)?);
    Ok(WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?)
}

fn roots(ca: &CertificateDer<'_>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}

/// What a stored leaf is for.
#[derive(Clone, Copy)]
pub(super) enum Usage {
    /// The API's own.
    Server,
    /// A client's.
    Client,
}

/// Whether `ca` signed `certificate` for that usage; dates are not looked at.
pub(super) fn is_signed_by(
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'static>,
    usage: Usage,
) -> bool {
    // Every certificate of ours starts in January 2020 and lives for years.
    let moment = UnixTime::since_unix_epoch(Duration::from_secs(1_600_000_000));
    let provider = Arc::new(ring::default_provider());
    match usage {
        Usage::Client => client_verifier(ca, &provider)
            .is_ok_and(|verifier| verifier.verify_client_cert(certificate, &[], moment).is_ok()),
        Usage::Server => {
            let Ok(roots) = roots(ca) else { return false };
            let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
            let algorithms = provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], moment, algorithms)
                .is_ok()
        }
    }
}

#[derive(Debug)]
struct OwnCertificate {
    key: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Debug)]
struct ClusterTime(Clock);

impl TimeProvider for ClusterTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.confirmed()))
    }
}

/// Takes every client certificate (or none) whose private key the peer proves to hold.
#[derive(Debug)]
struct AnyClient {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use model::timestamp::Timestamp;

    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("kumquat-tls-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(address: &str) -> ServerNames {
        ServerNames::new(
            "Board-1",
            "10.43.0.1".parse().unwrap(),
            [address.parse::<IpAddr>().unwrap()],
        )
    }

    fn now() -> Timestamp {
        Clock::starting_at(Timestamp(0)).now()
    }

    fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    }

    #[test]
    fn admin_is_known_and_strangers_are_not() {
        let (ours, theirs) = (Folder::new("ours"), Folder::new("theirs"));
        let pki = Pki::open(&ours.0, now()).unwrap();
        Pki::open(&theirs.0, now()).unwrap();
        let tls = ApiTls::new(&pki, &names("192.0.2.7"), Clock::starting_at(now())).unwrap();
        let admin = std::fs::read_to_string(ours.0.join("pki/admin.pem")).unwrap();
        let expected =
            PeerIdentity { name: "kubernetes-admin".into(), groups: vec!["system:masters".into()] };
        assert_eq!(tls.identify(&chain(&admin)), Ok(expected));
        let stranger = std::fs::read_to_string(theirs.0.join("pki/admin.pem")).unwrap();
        assert_eq!(tls.identify(&chain(&stranger)), Err(BadCertificate));
        let server = std::fs::read_to_string(ours.0.join("pki/api.pem")).unwrap();
        assert_eq!(tls.identify(&chain(&server)), Err(BadCertificate), "not a client's");
        assert_eq!(tls.identify(&[]), Err(BadCertificate));
    }

    const YEAR: i64 = 365 * 86_400_000;

    #[test]
    fn an_expired_certificate_is_refused_and_time_that_jumps_expires_none() {
        let folder = Folder::new("expired");
        let read = || std::fs::read_to_string(folder.0.join("pki/admin.pem")).unwrap();
        let clock = Clock::starting_at(now());
        // Issued so long ago that its time is over.
        let pki = Pki::open(&folder.0, now().plus_millis(-11 * YEAR)).unwrap();
        let tls = ApiTls::new(&pki, &names("192.0.2.7"), clock.clone()).unwrap();
        let old = read();
        assert_eq!(tls.identify(&chain(&old)), Err(BadCertificate));
        assert!(pki.renew(clock.now()).unwrap());
        let admin = read();
        assert_ne!(admin, old);
        assert!(tls.identify(&chain(&admin)).is_ok());
        clock.advance(clock.now().plus_millis(11 * YEAR));
        assert!(tls.identify(&chain(&admin)).is_ok(), "nobody is locked out by a jump");
        assert!(pki.renew(clock.now()).unwrap(), "but another one is issued");
        assert!(!pki.renew(clock.now()).unwrap(), "once");
        assert!(tls.identify(&chain(&read())).is_ok());
        let again = Pki::open(&folder.0, clock.now()).unwrap();
        assert_eq!(again.ca_certificate(), pki.ca_certificate());
        assert!(pki.admin_kubeconfig("c", "https://a").contains("client-key-data"));
    }

    #[test]
    fn the_certificate_of_the_api_is_exchanged_after_a_year() {
        let folder = Folder::new("year");
        let clock = Clock::starting_at(now());
        let pki = Pki::open(&folder.0, clock.now()).unwrap();
        let tls = ApiTls::new(&pki, &names("192.0.2.7"), clock.clone()).unwrap();
        let read = || std::fs::read_to_string(folder.0.join("pki/api.pem")).unwrap();
        let first = read();
        clock.advance(clock.now().plus_millis(YEAR / 2));
        tls.renew(&pki).unwrap();
        assert_eq!(read(), first, "half a year old");
        clock.advance(clock.now().plus_millis(YEAR * 2 / 3));
        tls.renew(&pki).unwrap();
        let second = read();
        assert_ne!(second, first);
        let covered = peer::server_names(&chain(&second)[0]).unwrap();
        assert!(covered.covers(&names("192.0.2.7")), "of the same names");
        // Until the end of the authority itself.
        clock.advance(clock.now().plus_millis(80 * YEAR));
        tls.renew(&pki).unwrap();
        let last = read();
        tls.renew(&pki).unwrap();
        assert_eq!(read(), last, "it cannot become longer");
    }

    #[test]
    fn files_are_kept_and_reissued_only_for_other_names() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("kept");
        let pki = Pki::open(&folder.0, now()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.0.join("pki").join(name)).unwrap();
        ApiTls::new(&pki, &names("192.0.2.7"), Clock::starting_at(now())).unwrap();
        let files = ["ca.key", "ca.crt", "api.pem", "admin.pem"];
        let before = files.map(read);
        for name in ["ca.key", "api.pem", "admin.pem"] {
            let mode = folder.0.join("pki").join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let pki = Pki::open(&folder.0, now()).unwrap();
        let tls = ApiTls::new(&pki, &names("192.0.2.7"), Clock::starting_at(now())).unwrap();
        assert_eq!(files.map(read), before);
        tls.set_names(&pki, &names("192.0.2.8")).unwrap();
        let both = read("api.pem");
        assert_ne!(both, before[2]);
        assert_eq!(read("ca.crt"), before[1]);
        for address in ["192.0.2.7", "192.0.2.8"] {
            tls.set_names(&pki, &names(address)).unwrap();
            assert_eq!(read("api.pem"), both, "an address that comes back costs no write");
        }
        for last in 9..200 {
            tls.set_names(&pki, &names(&format!("192.0.2.{last}"))).unwrap();
        }
        let covered = peer::server_names(&chain(&read("api.pem"))[0]).unwrap();
        assert!(covered.covers(&names("192.0.2.199")));
        assert!(covered.names.len() + covered.addresses.len() <= model::limits::SERVER_NAMES_MAX);
    }

    #[test]
    fn a_damaged_authority_is_never_replaced() {
        let folder = Folder::new("damaged");
        let good = Pki::open(&folder.0, now()).unwrap().ca_certificate().to_owned();
        let path = |name: &str| folder.0.join("pki").join(name);
        // A cut between key and certificate: made again from the key.
        std::fs::remove_file(path("ca.crt")).unwrap();
        let remade = Pki::open(&folder.0, now()).unwrap();
        assert_eq!(peer::public_key(remade.ca_der()), peer::public_key(&chain(&good)[0]));
        let key = std::fs::read(path("ca.key")).unwrap();
        for damage in [&b""[..], b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        {
            std::fs::write(path("ca.key"), damage).unwrap();
            assert!(matches!(Pki::open(&folder.0, now()), Err(TlsError::Damaged { .. })));
            assert_eq!(std::fs::read(path("ca.key")).unwrap(), damage);
        }
        std::fs::remove_file(path("ca.key")).unwrap();
        assert!(matches!(Pki::open(&folder.0, now()), Err(TlsError::Damaged { .. })));
        std::fs::write(path("ca.key"), key).unwrap();
        std::fs::write(path("ca.crt"), "garbage").unwrap();
        assert!(matches!(Pki::open(&folder.0, now()), Err(TlsError::Damaged { .. })));
    }
}
