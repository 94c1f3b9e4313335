//! Settings of the calling thread's network namespace, as files under `/proc/sys/net`.

use std::fs;
use std::io;

/// Sets `name` (`ipv4/ip_forward`) to `value`; a setting that has it already is not written, because
/// writing some of them resets others.
///
/// # Errors
/// There is no such setting, or it may not be changed.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::net::{create, inside, remove};

    #[test]
    fn a_setting_is_of_its_namespace() {
        let path = std::env::temp_dir().join(format!("kumquat-sysctl-{}", std::process::id()));
        if create(&path).is_err() {
            println!("not run: network namespaces cannot be made here");
            return;
        }
        let outcome = inside(&path, || {
            let read = || fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
            set("ipv4/ip_default_ttl", "33")?;
            assert_eq!(read()?.trim(), "33");
            assert!(set("ipv4/no_such_setting", "1").is_err());
            Ok(())
        });
        remove(&path).expect("removed");
        outcome.expect("settings of a namespace");
        let host = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").expect("readable");
        assert_ne!(host.trim(), "33");
    }
}
