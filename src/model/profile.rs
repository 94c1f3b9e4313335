//! What is known of a class of boards: the words of `boards/*.toml`.
//!
//! A profile is matched on the device tree's `compatible` strings and read by `io::host`. Nothing in it
//! is believed without a look at the board: it says where to look, and what to tell a person.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Label of a Node with the name of its board's profile.
pub const BOARD_LABEL: &str = "kumquat.dev/board";
/// Label of a Node with the model that its device tree names, as far as a label can hold it.
pub const MODEL_LABEL: &str = "kumquat.dev/model";

/// A class of boards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BoardProfile {
    /// Its name, a valid label value: `raspberry-pi-4`.
    pub name: String,
    /// Device-tree strings of its boards; none for the profile of all other boards.
    pub compatible: Vec<String>,
    /// Targets whose binaries run on it, the best first.
    pub targets: Vec<String>,
    /// Sizes of memory pages that its kernels have, in KiB, the usual one first.
    pub page_kib: Vec<u32>,
    /// What a person should know of it.
    #[serde(default)]
    pub note: String,
    /// What is kept back for the system.
    pub reserve: Reserve,
    /// How its kernel is told something.
    pub kernel: KernelSettings,
    /// Its hardware watchdog, when there is one.
    pub watchdog: Option<Watchdog>,
    /// Where it says how it fares.
    pub sensors: Sensors,
    /// Device nodes by what they are for.
    #[serde(default)]
    pub devices: BTreeMap<String, Vec<String>>,
}

/// What pods do not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Reserve {
    /// Memory in MiB; never more than a quarter of what there is.
    pub memory_mib: u32,
    /// Thousandths of a processor.
    pub cpu_millis: u32,
}

/// Where the kernel's command line is written, and which words it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KernelSettings {
    /// Files that may hold the command line; the first one that exists is it.
    pub files: Vec<String>,
    /// Words that turn on what some systems turn off.
    pub words: Vec<String>,
}

/// A hardware watchdog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Watchdog {
    /// Its device node.
    pub device: String,
    /// The longest time that it waits.
    pub seconds_max: u32,
    /// What brings the device node.
    pub enable: String,
}

/// Where a board says how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sensors {
    /// File with the temperature in thousandths of a degree Celsius.
    pub thermal: Option<String>,
    /// From this temperature on it slows down.
    pub throttle_celsius: u32,
    /// The alarm for too low a supply voltage.
    pub undervoltage: Option<Alarm>,
    /// File with the firmware's bits about voltage and speed (Raspberry Pi: `get_throttled`).
    pub throttled: Option<String>,
    /// The power supply that it needs.
    pub supply: Option<String>,
}

/// An alarm file of a hwmon device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Alarm {
    /// The device's `name`.
    pub hwmon: String,
    /// The file, which holds 1 while the alarm lasts.
    pub file: String,
}

/// Where this board's kernel command line is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFile {
    /// The file, an absolute path.
    pub path: String,
    /// What stands in it, or nothing when it cannot be read.
    pub text: String,
}

impl KernelFile {
    /// How a person adds `words` to the kernel's command line, as a part of a sentence: `add X to the
    /// one line of F and reboot`. When the words are there already, only the reboot is missing.
    pub fn remedy(&self, words: &[String]) -> String {
        let missing: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| !self.has(word)).collect();
        let path = &self.path;
        if missing.is_empty() {
            return format!("`{}` is in {path} already: reboot", words.join(" "));
        }
        let words = missing.join(" ");
        let name = path.rsplit('/').next().unwrap_or_default();
        match name {
            "armbianEnv.txt" | "orangepiEnv.txt" => {
                format!(
                    "add `{words}` to the line `extraargs=` of {path} (make it if there is none) and reboot"
                )
            }
            "extlinux.conf" => format!("add `{words}` to the `append` line of {path} and reboot"),
            "uEnv.txt" => format!("add `{words}` to the line `cmdline=` of {path} and reboot"),
            "boot.ini" => {
                format!("add `{words}` to the line `setenv bootargs` of {path} and reboot")
            }
            "grub" => format!(
                "add `{words}` to GRUB_CMDLINE_LINUX in {path}, run `update-grub` and reboot"
            ),
            "cmdline" => {
                format!("add `{words}` to the line of {path}, run `u-boot-update` and reboot")
            }
            _ => format!("add `{words}` to the one line of {path} and reboot"),
        }
    }

    fn has(&self, word: &str) -> bool {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut words = lines.flat_map(|line| {
            line.split(|c: char| c.is_whitespace() || c == '"' || c == '\'')
                .map(|part| part.strip_prefix("extraargs=").unwrap_or(part))
                .map(|part| part.strip_prefix("cmdline=").unwrap_or(part))
        });
        words.any(|there| there == word)
    }
}

/// A text as a label value: characters that a label cannot have become `-`; `None` when nothing is
/// left.
pub fn label_value(text: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let mut value = String::new();
    for c in text.chars().map(plain) {
        if c != '-' || !value.ends_with('-') {
            value.push(c);
        }
    }
    let end = |c: char| !c.is_ascii_alphanumeric();
    let value = value.trim_start_matches(end);
    let value = &value[..value.len().min(crate::limits::LABEL_BYTES_MAX)];
    let value = value.trim_end_matches(end);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_become_labels() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(label_value(text).as_deref(), expected, "{text}");
        };
        check("Raspberry Pi 4 Model B Rev 1.5", Some("Raspberry-Pi-4-Model-B-Rev-1.5"));
        check("OrangePi Win/Win Plus", Some("OrangePi-Win-Win-Plus"));
        check("Xunlong Orange Pi Plus / Plus 2", Some("Xunlong-Orange-Pi-Plus-Plus-2"));
        check("Radxa ROCK 4C+", Some("Radxa-ROCK-4C"));
        check("  ", None);
        check("ü", None);
        check(&format!("{} x", "a".repeat(62)), Some(&"a".repeat(62)));
    }

    #[test]
    fn each_file_has_its_own_way_to_add_a_word() {
        let words = ["cgroup_enable=memory".to_owned()];
        let check = |path: &str, text: &str, part: &str| {
            let file = KernelFile { path: path.to_owned(), text: text.to_owned() };
            let said = file.remedy(&words);
            assert!(said.contains(part) && said.contains(path), "{said}");
        };
        let pi = "/boot/firmware/cmdline.txt";
        check(pi, "console=tty1 root=PARTUUID=1 rootwait\n", "to the one line of");
        check(pi, "console=tty1 cgroup_enable=memory rootwait\n", "already: reboot");
        check(pi, "# cgroup_enable=memory\n", "to the one line of");
        check("/boot/armbianEnv.txt", "verbosity=1\n", "extraargs=");
        check("/boot/armbianEnv.txt", "extraargs=cgroup_enable=memory quiet\n", "already");
        check("/boot/extlinux/extlinux.conf", "", "append");
        check("/boot/uEnv.txt", "", "cmdline=");
        check("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"cgroup_enable=memory\"\n", "already");
        check("/etc/default/grub", "", "update-grub");
        check("/etc/kernel/cmdline", "", "u-boot-update");
        check("/media/boot/boot.ini", "", "bootargs");
    }
}
