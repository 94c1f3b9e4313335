//! What a certificate says: whose it is, until when, for which names, signed by whom.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ServerNames;

/// Who presented a certificate that the cluster's authority signed.
///
/// As in Kubernetes: the common name is the user, each organization is a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// User name.
    pub name: String,
    /// Groups, in the order of the certificate.
    pub groups: Vec<String>,
}

/// A client certificate that proves nothing: another authority's, out of date, or without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client certificate is not accepted")]
pub struct BadCertificate;

/// Reads the subject; the chain must have been verified before.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, BadCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| BadCertificate)?;
    let subject = parsed.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).map_err(|_| BadCertificate)
    };
    let name = subject.iter_common_name().next().ok_or(BadCertificate).and_then(text)?;
    let groups = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
    if name.is_empty() {
        return Err(BadCertificate);
    }
    Ok(PeerIdentity { name, groups })
}

/// Last second of validity, since 1970.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Raw bytes of the public key.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().subject_public_key.data.to_vec())
}

/// The subject alternative names; `None` when some are neither DNS names nor addresses.
pub(super) fn server_names(certificate: &CertificateDer<'_>) -> Option<ServerNames> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = ServerNames::default();
    for name in &parsed.subject_alternative_name().ok()??.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.names.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                names.addresses.insert(address(bytes)?);
            }
            _ => return None,
        }
    }
    Some(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
