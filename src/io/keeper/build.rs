//! Which build of the binary a process runs.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Version of this build, with size and time of the very file that this process runs: two builds of
/// one version differ, and a file that was replaced meanwhile does not count.
pub fn build_id() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match fs::metadata("/proc/self/exe") {
        Ok(file) => {
            format!("{version}+{:x}.{:x}.{:x}", file.size(), file.mtime(), file.mtime_nsec())
        }
        Err(_) => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_each_time_and_more_than_a_version() {
        assert_eq!(build_id(), build_id());
        assert!(build_id().starts_with(concat!(env!("CARGO_PKG_VERSION"), "+")));
    }
}
