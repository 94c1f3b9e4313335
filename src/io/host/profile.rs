//! The profiles of boards, embedded from `boards/*.toml`.
//!
//! A text is read only when its board is this one; there are some thirty, of less than a kilobyte.

use std::fs;
use std::path::Path;

use model::profile::{BoardProfile, KernelFile};

/// For boards that no other profile names.
const GENERIC: &str = include_str!("../../../boards/generic.toml");
/// All others.
const PROFILES: [&str; 29] = [
    include_str!("../../../boards/beaglebone-ai-64.toml"),
    include_str!("../../../boards/beaglebone-ai.toml"),
    include_str!("../../../boards/beaglebone-black.toml"),
    include_str!("../../../boards/beagleplay.toml"),
    include_str!("../../../boards/beagley-ai.toml"),
    include_str!("../../../boards/jetson-nano.toml"),
    include_str!("../../../boards/odroid-c2.toml"),
    include_str!("../../../boards/odroid-c4.toml"),
    include_str!("../../../boards/odroid-n2.toml"),
    include_str!("../../../boards/orange-pi-3b.toml"),
    include_str!("../../../boards/orange-pi-5.toml"),
    include_str!("../../../boards/orange-pi-h3.toml"),
    include_str!("../../../boards/orange-pi-h5.toml"),
    include_str!("../../../boards/orange-pi-h6.toml"),
    include_str!("../../../boards/orange-pi-r1-plus.toml"),
    include_str!("../../../boards/orange-pi-rk3399.toml"),
    include_str!("../../../boards/orange-pi-zero-2.toml"),
    include_str!("../../../boards/raspberry-pi-1.toml"),
    include_str!("../../../boards/raspberry-pi-2.toml"),
    include_str!("../../../boards/raspberry-pi-3.toml"),
    include_str!("../../../boards/raspberry-pi-4.toml"),
    include_str!("../../../boards/raspberry-pi-5.toml"),
    include_str!("../../../boards/raspberry-pi-zero-2.toml"),
    include_str!("../../../boards/raspberry-pi-zero.toml"),
    include_str!("../../../boards/rock-3.toml"),
    include_str!("../../../boards/rock-5.toml"),
    include_str!("../../../boards/rock-pi-4.toml"),
    include_str!("../../../boards/rock-pi-e.toml"),
    include_str!("../../../boards/rock-s.toml"),
];

/// The profile of the board with these device-tree strings, most specific first; the generic one for
/// a board that none is for.
pub fn profile(compatible: &[String]) -> BoardProfile {
    let named = compatible.iter().find_map(|string| {
        let quoted = format!("\"{string}\"");
        let texts = PROFILES.iter().filter(|text| text.contains(&quoted));
        texts.map(|text| read(text)).find(|profile| profile.compatible.contains(string))
    });
    named.unwrap_or_else(|| read(GENERIC))
}

/// Where the command line of this board's kernel is written.
pub fn kernel_file(root: &Path, profile: &BoardProfile) -> KernelFile {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let files = &profile.kernel.files;
    let found = files.iter().find(|path| inside(path).is_file()).or(files.first());
    let path = found.cloned().unwrap_or_default();
    let text = fs::read_to_string(inside(&path)).unwrap_or_default();
    KernelFile { path, text }
}

fn read(text: &str) -> BoardProfile {
    toml::from_str(text).expect("every embedded profile is read by a test")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Device tree, model and compatible strings of boards, from the kernel's sources.
    const MODELS: &str = include_str!("../../../tests/data/board-models.txt");

    fn models() -> Vec<(&'static str, Vec<String>)> {
        let line = |line: &'static str| {
            let mut parts = line.split('|').skip(1);
            let (model, strings) = (parts.next().expect("model"), parts.next().expect("strings"));
            // Vendor and device are parted by a comma, as are the strings.
            let words: Vec<&str> = strings.split(',').collect();
            (model, words.chunks(2).map(|pair| pair.join(",")).collect())
        };
        MODELS.lines().map(line).collect()
    }

    #[test]
    fn every_profile_is_complete() {
        let known: BTreeSet<String> = models().into_iter().flat_map(|(_, all)| all).collect();
        let mut names = BTreeSet::new();
        let mut owners = BTreeMap::new();
        for text in PROFILES.iter().chain([&GENERIC]) {
            let profile: BoardProfile = toml::from_str(text).expect("a profile");
            let name = profile.name.clone();
            assert_eq!(model::profile::label_value(&name), Some(name.clone()), "a label");
            assert!(names.insert(name.clone()), "{name} is there twice");
            for string in &profile.compatible {
                assert!(known.contains(string), "{name}: no board is {string}");
                let other = owners.insert(string.clone(), name.clone());
                assert_eq!(other, None, "{string} is in two profiles");
            }
            assert!(profile.compatible.is_empty() == (name == "generic"), "{name}");
            let target = |target: &String| target.contains("-linux-musl");
            assert!(!profile.targets.is_empty() && profile.targets.iter().all(target), "{name}");
            assert!(!profile.page_kib.is_empty() && !profile.kernel.files.is_empty(), "{name}");
            assert!((32..=256).contains(&profile.reserve.memory_mib), "{name}");
            assert!((1..=200).contains(&profile.reserve.cpu_millis), "{name}");
            assert!((60..=110).contains(&profile.sensors.throttle_celsius), "{name}");
            for path in profile.kernel.files.iter().chain(profile.devices.values().flatten()) {
                assert!(path.starts_with('/'), "{name}: {path}");
            }
        }
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("boards"));
        let files = files.expect("boards/").filter_map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .ok()?
                .strip_suffix(".toml")
                .map(str::to_owned)
        });
        assert_eq!(files.collect::<BTreeSet<_>>(), names, "every file is embedded under its name");
    }

    #[test]
    fn every_board_of_the_list_has_a_profile_for_its_kind() {
        for (model, compatible) in models() {
            let found = profile(&compatible);
            assert_ne!(found.name, "generic", "{model}");
            let pi = found.name.starts_with("raspberry-pi");
            assert_eq!(pi, model.starts_with("Raspberry Pi"), "{model} is {}", found.name);
            assert_eq!(pi, found.sensors.undervoltage.is_some(), "{model}");
            let old = compatible.iter().any(|string| string == "brcm,bcm2835");
            let v6 = found.targets.iter().any(|target| target.starts_with("arm-"));
            assert_eq!(v6, old, "{model}: only the first chip is ARMv6");
        }
    }

    #[test]
    fn the_most_specific_string_decides() {
        let check = |strings: &[&str], expected: &str| {
            let strings: Vec<String> = strings.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(profile(&strings).name, expected, "{strings:?}");
        };
        check(&["raspberrypi,4-model-b", "brcm,bcm2711"], "raspberry-pi-4");
        check(&["raspberrypi,model-zero-w", "brcm,bcm2835"], "raspberry-pi-zero");
        check(&["raspberrypi,5-compute-module", "brcm,bcm2712"], "raspberry-pi-5");
        check(&["raspberrypi,model-zero-2-w", "brcm,bcm2837"], "raspberry-pi-zero-2");
        check(&["acme,rocket", "acme,soc"], "generic");
        check(&[], "generic");
        check(&["", "\""], "generic");
    }

    #[test]
    fn the_first_file_that_exists_holds_the_command_line() {
        let root = std::env::temp_dir().join(format!("kumquat-kernel-file-{}", std::process::id()));
        let pi = profile(&["raspberrypi,4-model-b".to_owned()]);
        assert_eq!(kernel_file(&root, &pi).path, "/boot/firmware/cmdline.txt");
        fs::create_dir_all(root.join("boot")).expect("tmp");
        fs::write(root.join("boot/cmdline.txt"), "quiet\n").expect("tmp");
        let old = kernel_file(&root, &pi);
        assert_eq!((old.path.as_str(), old.text.as_str()), ("/boot/cmdline.txt", "quiet\n"));
        fs::remove_dir_all(root).expect("removed");
    }
}
