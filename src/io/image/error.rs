//! What goes wrong with images, in words for the person who imports them.

use std::io;
use std::path::PathBuf;

/// Why an image operation failed; nothing of a failed import stays behind.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The directory of the store cannot be used.
    #[error("image store {path} cannot be opened")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("image store {0} is in use by another kumquat process")]
    InUse(PathBuf),
    /// Reading or writing failed.
    #[error("{attempt}")]
    Io {
        /// What was attempted, on which object.
        attempt: String,
        /// What the kernel or a decoder said.
        #[source]
        source: io::Error,
    },
    /// The list of images is damaged; it is left as it is, since pods may use what it names.
    #[error(
        "image record {path} is damaged ({why}): restore it from a backup, or move it away, start \
         again and import the images again"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No space is left for it.
    #[error(
        "{attempt}: No space left on device: free some space on the file system of --data-dir (remove \
         unused images with `kumquat image rm`) and import again"
    )]
    NoSpace {
        /// What was attempted, on which object.
        attempt: String,
    },
    /// The bytes are not an image archive.
    #[error("not an image archive: {0}")]
    NotAnArchive(String),
    /// The archive contradicts itself.
    #[error("image archive is damaged: {0}")]
    Damaged(String),
    /// A bound of this program is passed.
    #[error("image archive is too large: {0}")]
    TooLarge(String),
    /// Built for another processor.
    #[error("image {name} is built for {built}, this board is {board}")]
    Architecture {
        /// The image.
        name: String,
        /// What it is built for.
        built: String,
        /// What this board runs.
        board: String,
    },
    /// The text is not an image name.
    #[error("{text:?} is not an image name: {reason}")]
    Name {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The archive names no image and the caller neither.
    #[error("the archive names no image: give it a name")]
    Nameless,
    /// No such image on this board.
    #[error("image {0} is not on this board")]
    Absent(String),
}

impl ImageError {
    /// Wraps an IO error with what was attempted.
    pub(super) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| match source.get_ref().and_then(|inner| inner.downcast_ref::<TarFault>()) {
            Some(fault) => Self::Damaged(format!("{attempt}: {fault}")),
            None if is_no_space(&source) => Self::NoSpace { attempt },
            None => Self::Io { attempt, source },
        }
    }

    /// The whole chain of causes in one line, for a client; bytes of an archive that would steer a
    /// terminal are left out.
    pub fn text(&self) -> String {
        use std::error::Error;
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text.replace(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER, "?")
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A tar stream that we refuse; travels inside an `io::Error` through readers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TarFault(pub(super) String);

impl From<TarFault> for io::Error {
    fn from(fault: TarFault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}
