//! The keys that service accounts' tokens are signed with: `<data-dir>/pki/tokens.key`.
//!
//! The file holds PKCS#8 PEMs one after the other. The first one signs, all of them verify, so that
//! tokens outlive a change of key. Tokens are JSON Web Signatures in their compact form (RFC 7515) with
//! ES256 (RFC 7518 section 3.4); a key's id is the SHA-256 of its SubjectPublicKeyInfo, as in
//! kube-apiserver. All masters have the same keys. Deliberately absent: every other algorithm; what a
//! token claims (`logic::account`).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::limits::{TOKEN_BYTES_MAX, TOKEN_KEYS_MAX};
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{TlsError, file, issue};

const FILE: &str = "tokens.key";
const END: &str = "-----END PRIVATE KEY-----";
/// An uncompressed point of P-256: the byte 4, then both coordinates (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;

/// The keys of tokens; clones share them.
#[derive(Clone)]
pub struct TokenKeys(Arc<Vec<TokenKey>>);

struct TokenKey {
    id: String,
    pair: EcdsaKeyPair,
    /// The public key as a point.
    point: Vec<u8>,
    pem: String,
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl TokenKeys {
    /// The keys in `<data_dir>/pki`; the first one is made, durably, when there is none.
    ///
    /// # Errors
    /// [`TlsError::Damaged`] when a file is there that holds something else; it is left as it is.
    pub fn open(data_dir: &Path) -> Result<Self, TlsError> {
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        let path = folder.join(FILE);
        let text = match file::read(&path)? {
            Some(text) => text,
            None => {
                let text = issue::new_key("service account tokens")?.serialize_pem();
                file::write(&path, &text, file::SECRET)?;
                text
            }
        };
        Self::parse(&text).map_err(|why| TlsError::Damaged { path, why: why.to_owned() })
    }

    /// Takes over the keys of another master, durably: the first one signs.
    ///
    /// # Errors
    /// They are none, or the disk refuses.
    pub fn install(data_dir: &Path, pems: &[String]) -> Result<Self, TlsError> {
        let folder = data_dir.join("pki");
        file::make_folder(&folder)?;
        let (path, text) = (folder.join(FILE), pems.concat());
        let keys = Self::parse(&text);
        let keys =
            keys.map_err(|why| TlsError::Damaged { path: path.clone(), why: why.to_owned() })?;
        file::write(&path, &text, file::SECRET)?;
        Ok(keys)
    }

    /// Another key as PEM, which is kept nowhere yet: secret.
    ///
    /// # Errors
    /// The system's randomness.
    pub fn another() -> Result<String, TlsError> {
        Ok(issue::new_key("service account tokens")?.serialize_pem())
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let pems = text.split_inclusive(END).filter(|pem| !pem.trim().is_empty());
        let keys: Vec<TokenKey> =
            pems.map(TokenKey::parse).collect::<Option<_>>().ok_or("not P-256 keys as PEM")?;
        match keys.len() {
            0 => Err("no key"),
            1..=TOKEN_KEYS_MAX => Ok(Self(Arc::new(keys))),
            _ => Err("too many keys"),
        }
    }

    /// The keys as PEM, for another master: secret.
    pub fn pems(&self) -> Vec<String> {
        self.0.iter().map(|key| key.pem.clone()).collect()
    }

    /// A token with these claims, which are JSON.
    pub fn sign(&self, claims: &[u8]) -> String {
        let key = self.0.first().expect("checked when they were read");
        let header = json!({"alg": "ES256", "kid": key.id});
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims));
        let signature = key.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.expect("a loaded key needs nothing but the system's randomness");
        format!("{text}.{}", encode(signature.as_ref()))
    }

    /// The claims of a token that one of the keys has signed; `None` for any other text.
    pub fn verify(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        // What a critical extension means is not known here (RFC 7515, 4.1.11).
        if header["alg"] != "ES256" || header.get("crit").is_some() {
            return None;
        }
        let key = self.0.iter().find(|key| header["kid"] == key.id.as_str())?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point);
        public.verify(signed.as_bytes(), &decode(signature)?).ok()?;
        decode(claims)
    }

    /// The public keys as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> Value {
        let key = |key: &TokenKey| {
            let (x, y) = key.point[1..].split_at((POINT_BYTES - 1) / 2);
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                "x": encode(x), "y": encode(y)})
        };
        json!({"keys": self.0.iter().map(key).collect::<Vec<_>>()})
    }
}

impl TokenKey {
    fn parse(pem: &str) -> Option<Self> {
        let key = KeyPair::from_pem(pem).ok()?;
        let point = key.public_key_raw().to_vec();
        let (document, random) = (key.serialize_der(), SystemRandom::new());
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(signing, &document, &random).ok()?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        (point.len() == POINT_BYTES).then(|| Self { id, pair, point, pem: key.serialize_pem() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("kumquat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn keys_come_back_and_go_to_other_masters() {
        let (first, second) = (folder("tokens-a"), folder("tokens-b"));
        let keys = TokenKeys::open(&first).expect("made");
        let token = keys.sign(br#"{"a":1}"#);
        let again = TokenKeys::open(&first).expect("read");
        assert_eq!(again.verify(&token).as_deref(), Some(&br#"{"a":1}"#[..]));
        let other = TokenKeys::open(&second).expect("another");
        assert_eq!(other.verify(&token), None);
        let both = [other.pems(), keys.pems()].concat();
        let other = TokenKeys::install(&second, &both).expect("taken over");
        assert!(other.verify(&token).is_some(), "signed by the older key");
        assert_eq!(keys.verify(&other.sign(b"{}")), None, "signed by the newer key");
        let read = TokenKeys::open(&second).expect("read").pems();
        assert_eq!(read, both);
        fs::write(second.join("pki").join(FILE), "x").expect("written");
        assert!(matches!(TokenKeys::open(&second), Err(TlsError::Damaged { .. })));
        assert!(TokenKeys::install(&second, &[]).is_err());
        fs::remove_dir_all(first).expect("removed");
        fs::remove_dir_all(second).expect("removed");
    }

    #[test]
    fn no_byte_of_a_token_may_differ() {
        let data_dir = folder("tokens-c");
        let keys = TokenKeys::open(&data_dir).expect("made");
        let token = keys.sign(br#"{"sub":"x"}"#);
        assert!(keys.verify(&token).is_some());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(keys.verify(&other), None, "byte {at} of {token}");
            assert_eq!(keys.verify(&token[..at]), None, "cut at {at}");
        }
        let unsigned = |header: &str| {
            let parts = [header, r#"{"sub":"x"}"#, ""];
            parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
        };
        assert_eq!(keys.verify(&unsigned(r#"{"alg":"none"}"#)), None);
        let id = &keys.0[0].id;
        assert_eq!(keys.verify(&unsigned(&format!(r#"{{"alg":"none","kid":"{id}"}}"#))), None);
        assert_eq!(keys.verify(&unsigned(&format!(r#"{{"alg":"ES256","kid":"{id}"}}"#))), None);
        assert_eq!(keys.verify(&"a".repeat(TOKEN_BYTES_MAX + 1)), None);
        fs::remove_dir_all(data_dir).expect("removed");
    }

    #[test]
    fn the_key_set_verifies_what_was_signed() {
        let data_dir = folder("tokens-d");
        let keys = TokenKeys::open(&data_dir).expect("made");
        let token = keys.sign(b"{}");
        let set = keys.jwks();
        let key = &set["keys"][0];
        let part =
            |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().expect("text")).expect("base64");
        let point = [&[4], &part("x")[..], &part("y")[..]].concat();
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(signed.as_bytes(), &signature).expect("verified");
        assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
        fs::remove_dir_all(data_dir).expect("removed");
    }
}
