//! What a board has promised before it has a cluster: `<data-dir>/genesis.json`.
//!
//! It holds the token, too: a founder that is cut off before the token is one of its cluster's keeps it
//! at its next start. The file goes as soon as nothing in it is needed.

use std::fs;
use std::io;

use anyhow::{Context, Result, anyhow};
use logic::genesis::Record;
use model::masters::GenesisId;
use model::token::BootstrapToken;
use serde::{Deserialize, Serialize};

use crate::app::dirs::Dirs;
use crate::io::durable;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    token: String,
    /// What [`logic::genesis`] wants kept.
    pub(super) record: Record,
}

impl Kept {
    /// What was promised with this token; a new record when nothing was.
    ///
    /// # Errors
    /// A file that cannot be read: a promise in it may stand.
    pub(super) fn load(dirs: &Dirs, token: &BootstrapToken) -> Result<Self> {
        let text = token.to_string();
        if let Some(kept) = Self::read(dirs)?
            && kept.token == text
        {
            return Ok(kept);
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| anyhow!("the kernel gives no randomness: {error}"))?;
        let record = Record::new(GenesisId(id));
        let fresh = Self { token: text, record };
        fresh.save(dirs)?;
        Ok(fresh)
    }

    /// The token of a founding that is not complete yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn token(dirs: &Dirs) -> Result<Option<BootstrapToken>> {
        let Some(kept) = Self::read(dirs)? else { return Ok(None) };
        Ok(kept.token.parse().ok())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save(&self, dirs: &Dirs) -> Result<()> {
        let path = dirs.genesis();
        durable::replace(&path, &serde_json::to_vec(self)?, durable::SECRET)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes the file.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn forget(dirs: &Dirs) -> Result<()> {
        let path = dirs.genesis();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn read(dirs: &Dirs) -> Result<Option<Self>> {
        let path = dirs.genesis();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let kept = serde_json::from_slice(&bytes).with_context(|| {
            let path = path.display();
            format!("{path} is damaged: start on an empty --data-dir")
        })?;
        Ok(Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::token::TokenId;

    #[test]
    fn a_promise_outlives_the_process_and_belongs_to_its_token() {
        let folder = std::env::temp_dir().join(format!("kumquat-genesis-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let dirs = Dirs::new(&folder, &folder);
        let token = |n: u8| BootstrapToken { id: TokenId([n; 5]), secret: [n; 16] };
        assert_eq!(Kept::token(&dirs).expect("readable"), None);
        let mut kept = Kept::load(&dirs, &token(1)).expect("made");
        kept.record.round = 7;
        kept.save(&dirs).expect("durable");
        assert_eq!(Kept::load(&dirs, &token(1)).expect("there"), kept);
        assert_eq!(Kept::token(&dirs).expect("readable"), Some(token(1)));
        let other = Kept::load(&dirs, &token(2)).expect("another");
        assert_ne!(other.record.id, kept.record.id);
        fs::write(dirs.genesis(), b"{").expect("written");
        assert!(Kept::load(&dirs, &token(2)).is_err(), "a promise in it may stand");
        Kept::forget(&dirs).expect("removed");
        Kept::forget(&dirs).expect("already");
        fs::remove_dir_all(folder).expect("removed");
    }
}
