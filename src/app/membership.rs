//! Where a member last saw its leader: `<data-dir>/cluster.json`.
//!
//! A hint, so that a board finds its cluster where multicast is filtered: the record is checked anew
//! when it is read, and a file that is damaged or missing costs a search and nothing else.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use model::leader::SignedRecord;
use model::masters::MasterAtV1;
use serde::{Deserialize, Serialize};

use super::dirs::Dirs;
use crate::io::durable;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    /// The newest leader record that the cluster's authority has signed.
    pub(super) leader: Option<SignedRecord>,
    /// Everybody who held the log.
    #[serde(default)]
    pub(super) masters: Vec<MasterAtV1>,
}

impl Membership {
    /// What lies on the disk; nothing when it is missing or damaged.
    pub(super) fn load(dirs: &Dirs) -> Self {
        let path = dirs.cluster();
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "where the leader was cannot be read; looking for it");
            Self::default()
        })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save(&self, dirs: &Dirs) -> Result<()> {
        let path = dirs.cluster();
        durable::replace(&path, &serde_json::to_vec(self)?, durable::PUBLIC)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_forgotten() {
        let folder = std::env::temp_dir().join(format!("kumquat-member-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let dirs = Dirs::new(&folder, &folder);
        assert_eq!(Membership::load(&dirs), Membership::default());
        let text = "c=lab e=1 t=12 n=pi-1 a=192.0.2.1 p=6443,8883,7443 \
                    f=30313233343536373839616263646566 s=c2lnbmVk";
        let leader = Some(text.parse().expect("a record"));
        let known = Membership { leader, masters: Vec::new() };
        known.save(&dirs).expect("durable");
        assert_eq!(Membership::load(&dirs), known);
        let first = serde_json::to_string(&known).expect("JSON").replace(",\"masters\":[]", "");
        fs::write(dirs.cluster(), first).expect("written");
        assert_eq!(Membership::load(&dirs), known, "what an earlier version wrote");
        fs::write(dirs.cluster(), b"{\"leader\":\"c=lab\"}").expect("written");
        assert_eq!(Membership::load(&dirs), Membership::default());
        fs::remove_dir_all(folder).expect("removed");
    }
}
