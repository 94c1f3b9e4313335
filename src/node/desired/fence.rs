//! The highest (epoch, term) that this board has obeyed, durable: a deposed leader is not obeyed, not
//! even after a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::io::durable;

/// Epoch and term of a leader, in the order in which leaders follow each other.
pub(crate) type Reign = (u64, u64);

/// The fence of a board.
#[derive(Debug)]
pub(crate) struct Fence {
    path: PathBuf,
    highest: Reign,
}

impl Fence {
    /// Reads the fence in `dir`; none yet lets everybody pass.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("fence");
        let highest = match fs::read(&path) {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
                let text = format!(
                    "{} is damaged: remove it if this board has followed its latest leader",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0),
            Err(error) => return Err(error),
        };
        Ok(Self { path, highest })
    }

    /// The highest reign so far.
    pub(crate) fn highest(&self) -> Reign {
        self.highest
    }

    /// Whether a leader may be obeyed; a new one is written down first.
    ///
    /// # Errors
    /// The disk's: then the leader must not be obeyed.
    pub(crate) fn admit(&mut self, reign: Reign) -> io::Result<bool> {
        if reign > self.highest {
            let text = format!("{} {}\n", reign.0, reign.1);
            durable::replace(&self.path, text.as_bytes(), durable::PUBLIC)?;
            self.highest = reign;
        }
        Ok(reign >= self.highest)
    }
}

fn parse(text: &str) -> Option<Reign> {
    let (epoch, term) = text.trim().split_once(' ')?;
    Some((epoch.parse().ok()?, term.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deposed_leader_stays_out() {
        let dir = std::env::temp_dir().join(format!("kumquat-fence-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("made");
        let mut fence = Fence::open(&dir).expect("new");
        for (reign, admitted) in
            [((1, 1), true), ((1, 3), true), ((1, 3), true), ((1, 2), false), ((2, 0), true)]
        {
            assert_eq!(fence.admit(reign).expect("written"), admitted, "{reign:?}");
        }
        let mut fence = Fence::open(&dir).expect("again");
        assert_eq!(fence.highest(), (2, 0));
        assert!(!fence.admit((1, 9)).expect("read"));
        fs::remove_dir_all(dir).expect("removable");
    }
}
