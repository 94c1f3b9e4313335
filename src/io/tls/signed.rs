//! Bytes signed by the cluster's authority, and proofs of a shared secret.
//!
//! Both carry what they are for, so that neither can be taken for something else that the same key or
//! secret made: a signature of ours is never one of a certificate.

use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;

use super::issue::ED25519_START;
use super::peer;

/// Precedes every signed text; a certificate begins with another byte.
pub(super) const SIGNED: &[u8] = b"kumquat signed\0";

/// Whether the authority signed these bytes ([`super::Pki::sign`]).
pub fn verify(authority: &CertificateDer<'_>, bytes: &[u8], signature: &[u8]) -> bool {
    let Some(key) = peer::public_key(authority) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&[SIGNED, bytes].concat(), signature)
        .is_ok()
}

/// HMAC-SHA256 over a label and the parts, each with its length before it.
pub fn proof(secret: &[u8], label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &message(label, parts));
    tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Whether `shown` is that proof, in a time that does not depend on it.
pub fn is_proof(shown: &[u8], secret: &[u8], label: &str, parts: &[&[u8]]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &message(label, parts), shown).is_ok()
}

/// Whether the key of a board (DER SubjectPublicKeyInfo) signed this ([`super::BoardKey::sign`]).
pub fn verify_board(public_key: &[u8], label: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
    let Some(key) = public_key.strip_prefix(&ED25519_START) else { return false };
    UnparsedPublicKey::new(&ED25519, key).verify(&message(label, parts), signature).is_ok()
}

pub(super) fn message(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        message.extend_from_slice(&(part.len() as u64).to_le_bytes());
        message.extend_from_slice(part);
    }
    message
}
