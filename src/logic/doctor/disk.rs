//! Cards, chips, file systems, swap.

use super::{Disk, Facts, Finding, Flash, Swap};

/// Tenths of a chip's life at which a person should look for another.
const LIFE_TENTHS_WARN: u8 = 9;
/// The chip says that it is beyond its life.
const LIFE_TENTHS_OVER: u8 = 11;
/// Below this share of free space a board takes no more pods (kubelet's threshold).
const FREE_PERCENT_MIN: u64 = 10;
/// Below this nothing works any more.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = flash(&facts.flash);
    findings.extend(facts.disks.iter().map(disk));
    findings.extend(facts.swaps.iter().map(swap));
    findings
}

fn flash(all: &[Flash]) -> Vec<Finding> {
    const CHECK: &str = "flash-health";
    let find = |flash: &Flash| {
        let Flash { device, name, life_tenths, pre_eol } = flash;
        let replace = format!("save what matters and replace {device}");
        let life = life_tenths.unwrap_or(0);
        match (life, *pre_eol) {
            (LIFE_TENTHS_OVER.., _) | (_, Some(3)) => Finding::fail(
                CHECK,
                format!("{device} ({name}) is worn out by its own account"),
                replace,
            ),
            (LIFE_TENTHS_WARN.., _) | (_, Some(2)) => Finding::warn(
                CHECK,
                format!("{device} ({name}) has used about {} % of its life", u32::from(life) * 10),
                replace,
            ),
            (1.., _) => Finding::ok(
                CHECK,
                format!("{device} ({name}) has used at most {} % of its life", life * 10),
            ),
            _ => Finding::ok(
                CHECK,
                format!("{device} ({name}) does not tell its wear, as most cards"),
            ),
        }
    };
    all.iter().map(find).collect()
}

fn disk(disk: &Disk) -> Finding {
    const CHECK: &str = "file-system";
    let Disk { what, point, device, read_only, errors, available_bytes, total_bytes } = disk;
    if *read_only {
        let what = format!("the file system of the {what} ({device} at {point}) takes no writes");
        return match disk.what == "root" && *errors == 0 {
            true => Finding::ok(CHECK, format!("{what}, which is fine for a root")),
            false => Finding::fail(
                CHECK,
                what,
                format!(
                    "look at `dmesg` for errors of {device}; check it with `fsck {device}` while it is \
                     not mounted; a card that turned read-only is worn out: replace it"
                ),
            ),
        };
    }
    if *errors > 0 {
        return Finding::warn(
            CHECK,
            format!("ext4 has counted {errors} errors on {device} ({what}, {point})"),
            format!(
                "check it: `touch /forcefsck` or `fsck.mode=force` on the kernel's command line and reboot, or `e2fsck -f {device}` while it is not mounted"
            ),
        );
    }
    let mib = |bytes: u64| bytes / 1024 / 1024;
    let space = format!(
        "{} MiB of {} MiB are free at {point} ({what})",
        mib(*available_bytes),
        mib(*total_bytes)
    );
    let remedy = "remove images with `kumquat image rm`, or delete what is not needed";
    if *total_bytes > 0 && *available_bytes < FREE_BYTES_MIN {
        return Finding::fail(CHECK, space, remedy);
    }
    if *total_bytes > 0 && *available_bytes < total_bytes / 100 * FREE_PERCENT_MIN {
        let what = format!("{space}: below {FREE_PERCENT_MIN} % a board takes no more pods");
        return Finding::warn(CHECK, what, remedy);
    }
    Finding::ok(CHECK, space)
}

fn swap(swap: &Swap) -> Finding {
    const CHECK: &str = "swap";
    let path = &swap.path;
    if !swap.on_flash {
        return Finding::ok(CHECK, format!("swap on {path} wears no card"));
    }
    let remedy = match path.as_str() {
        "/var/swap" => {
            "dphys-swapfile swapoff; systemctl disable --now dphys-swapfile (zram-tools gives swap in \
             compressed memory)"
                .to_owned()
        }
        _ => format!(
            "swapoff {path} and remove its line from /etc/fstab (zram-tools gives swap in compressed \
             memory)"
        ),
    };
    Finding::warn(CHECK, format!("swap on {path} wears the card out"), remedy)
}
