//! How many files this process may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to `wanted`, or to the hard limit when that is lower; never lowers it. Gives
/// the limit that holds.
///
/// # Errors
/// The kernel knows no such limit, which no kernel that we run on does.
pub fn allow_open_files(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = wanted.min(hard).max(soft);
    if raised > soft {
        setrlimit(Resource::RLIMIT_NOFILE, raised, hard)?;
    }
    Ok(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_rises_up_to_the_hard_one_and_never_falls() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let more = soft.saturating_add(1).min(hard);
        assert_eq!(allow_open_files(more).expect("within the hard limit"), more);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("a limit"), (more, hard));
        assert_eq!(allow_open_files(1).expect("nothing to do"), more);
    }
}
