//! What a person can do about an error whose cause the system names: a full disk, missing rights.

use std::io::{self, ErrorKind};

/// Words to put behind an error; empty when its own words must do.
pub(super) fn of(error: &anyhow::Error) -> &'static str {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    let remedies = causes.filter_map(|cause| match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("\n  remedy: free some space on that file system and run the command again")
        }
        ErrorKind::ReadOnlyFilesystem => Some(
            "\n  remedy: mount that file system for writing; a worn-out card turns read-only, see `dmesg`",
        ),
        ErrorKind::PermissionDenied => Some("\n  remedy: run the command as root (sudo)"),
        _ => None,
    });
    remedies.last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_cause_decides() {
        let check = |kind: ErrorKind, word: &str| {
            let failed: Result<(), _> = Err(io::Error::from(kind));
            let error =
                failed.context("cannot write a").context("cannot start").expect_err("fails");
            assert!(of(&error).contains(word), "{kind:?}: {}", of(&error));
            assert_eq!(of(&error).is_empty(), word.is_empty(), "{kind:?}");
        };
        check(ErrorKind::StorageFull, "free some space");
        check(ErrorKind::PermissionDenied, "sudo");
        check(ErrorKind::ReadOnlyFilesystem, "dmesg");
        check(ErrorKind::NotFound, "");
    }
}
