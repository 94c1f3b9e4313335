//! Signs certificates: the one place that knows the certificate library.
//!
//! Dates start in 2020, so that a client whose clock is behind by years still accepts them.

use model::timestamp::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::board::{MASTERS, NODES, USER_PREFIX};
use super::{ServerNames, TlsError};

/// First year of every certificate.
const FIRST_YEAR: i32 = 2020;
/// Life of the authority and of what only boards use.
const AUTHORITY_YEARS: i32 = 100;
/// Life of the API's certificate, from its issue: clients judge it by clocks of their own.
const SERVER_DAYS: i64 = 30 * 365;
/// Life of the admin's certificate, from its issue.
const ADMIN_DAYS: i64 = 3652;

/// id-at-organizationName (RFC 5280 appendix A.1).
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];
/// How an Ed25519 SubjectPublicKeyInfo begins (RFC 8410 section 4), and how long it is.
pub(super) const ED25519_START: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ED25519_BYTES: usize = 44;

/// A certificate and its key, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Makes a P-256 key.
pub(super) fn new_key(subject: &str) -> Result<KeyPair, TlsError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed(subject))
}

/// The authority's certificate for `key`.
pub(super) fn authority(key: &KeyPair) -> Result<String, TlsError> {
    let subject = "kumquat-ca";
    let mut params = params(subject, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(params.self_signed(key).map_err(failed(subject))?.pem())
}

/// The API server's certificate and key.
pub(super) fn server(
    ca: &str,
    ca_key: &KeyPair,
    names: &ServerNames,
    now: Timestamp,
) -> Result<Pair, TlsError> {
    let subject = "kube-apiserver";
    let mut params = params(subject, None);
    params.not_after = after(now, SERVER_DAYS);
    for name in &names.names {
        let name = name.as_str().try_into().map_err(failed(subject))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf(params, subject, ca, ca_key)
}

/// The admin's certificate and key, valid for ten years from `now`.
pub(super) fn admin(ca: &str, ca_key: &KeyPair, now: Timestamp) -> Result<Pair, TlsError> {
    let subject = "kubernetes-admin";
    let mut params = params(subject, Some("system:masters"));
    params.not_after = after(now, ADMIN_DAYS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf(params, subject, ca, ca_key)
}

/// A board's certificate for its own public key. Only a master's may be shown by a server.
pub(super) fn board(
    ca: &str,
    ca_key: &KeyPair,
    name: &str,
    public_key: &[u8],
    is_master: bool,
) -> Result<String, TlsError> {
    let subject = format!("{USER_PREFIX}{name}");
    let key = SubjectPublicKeyInfo::from_der(public_key)
        .ok()
        .filter(|_| public_key.len() == ED25519_BYTES && public_key.starts_with(&ED25519_START))
        .ok_or_else(|| TlsError::PublicKey { board: name.into() })?;
    let mut params = params(&subject, Some(NODES));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if is_master {
        // The library keeps one value for each kind of name; spelled as a number it takes another.
        let organization = DnType::CustomDnType(ORGANIZATION.to_vec());
        params.distinguished_name.push(organization, MASTERS);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(ca, ca_key).map_err(failed(&subject))?;
    Ok(params.signed_by(&key, &issuer).map_err(failed(&subject))?.pem())
}

/// The certificate of a board that has no authority yet, signed by its own key.
pub(super) fn self_signed_board(
    key: &KeyPair,
    name: &str,
) -> Result<CertificateDer<'static>, TlsError> {
    let subject = format!("{USER_PREFIX}{name}");
    let mut params = params(&subject, Some(NODES));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(key).map_err(failed(&subject))?.der().clone())
}

fn leaf(
    mut params: CertificateParams,
    subject: &str,
    ca: &str,
    ca_key: &KeyPair,
) -> Result<Pair, TlsError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = new_key(subject)?;
    let issuer = Issuer::from_ca_cert_pem(ca, ca_key).map_err(failed(subject))?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed(subject))?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The last second of a certificate of the API that is issued at this moment.
pub(super) fn server_end(now: Timestamp) -> i64 {
    after(now, SERVER_DAYS).unix_timestamp()
}

/// No later than the authority itself.
fn after(now: Timestamp, days: i64) -> OffsetDateTime {
    let end = OffsetDateTime::from_unix_timestamp(now.seconds())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .saturating_add(Duration::days(days));
    end.min(rcgen::date_time_ymd(FIRST_YEAR + AUTHORITY_YEARS, 1, 1))
}

fn params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = rcgen::date_time_ymd(FIRST_YEAR, 1, 1);
    params.not_after = rcgen::date_time_ymd(FIRST_YEAR + AUTHORITY_YEARS, 1, 1);
    params
}

fn failed(subject: &str) -> impl Fn(rcgen::Error) -> TlsError {
    move |source| TlsError::Issue { subject: subject.into(), source }
}
