//! Encryption of what lies on this board's disk, with the board's own key (ChaCha20-Poly1305).
//!
//! It protects a copy of the data directory without the key file, and secrets in backups; it does not
//! protect a stolen card that carries both.

use std::fs;
use std::io;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::io::durable;

const KEY_BYTES: usize = 32;

/// The board's key.
pub(super) struct Seal(LessSafeKey);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Reads the key, or makes it, durably, before anything is sealed with it. A damaged key opens
    /// nothing any more, so another one takes its place.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        match fs::read(path) {
            Ok(bytes) if bytes.len() == KEY_BYTES => key.copy_from_slice(&bytes),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            found => {
                if found.is_ok() {
                    let path = path.display();
                    tracing::error!(%path, "key is damaged: the master sends the desired set again");
                }
                random(&mut key)?;
                durable::replace(path, &key, durable::SECRET)?;
            }
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| opaque("key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Nonce and sealed bytes.
    pub(super) fn seal(&self, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        // 96 random bits: a board writes far fewer records than would make two meet.
        random(&mut nonce)?;
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes)
            .map_err(|_| opaque("sealing"))?;
        Ok([&nonce[..], &bytes].concat())
    }

    /// The bytes again; `None` when they were not sealed with this key.
    pub(super) fn open_sealed(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let plain = self.0.open_in_place(nonce, Aad::empty(), &mut body).ok()?.len();
        body.truncate(plain);
        Some(body)
    }
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

fn opaque(what: &str) -> io::Error {
    io::Error::other(format!("the board's key: {what} failed"))
}
