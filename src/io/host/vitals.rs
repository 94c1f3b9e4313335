//! How the board fares at this moment: voltage, speed, temperature, file systems, clock.
//!
//! Where to look is found once ([`VitalSigns::find`]); a look reads a handful of small files of the
//! kernel's and writes nothing. What a board does not tell is `None`.

use std::fs;
use std::path::{Path, PathBuf};

use model::profile::{Alarm, BoardProfile};

use super::cgroup::CgroupFacts;
use super::clock;
use super::mounts::{mount_of, mounts};

/// Bits of the Raspberry Pi's firmware (`get_throttled`): the voltage is too low now.
const BIT_UNDERVOLTAGE: u32 = 1;
/// Speed is capped, or the processor is throttled, or the soft limit of temperature is active, now.
const BITS_THROTTLED: u32 = 1 << 1 | 1 << 2 | 1 << 3;

/// How the board fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// The supply voltage is too low.
    pub undervoltage: Option<bool>,
    /// The processor is slowed down, for its temperature or its voltage.
    pub throttled: Option<bool>,
    /// Temperature in thousandths of a degree Celsius.
    pub milli_celsius: Option<i32>,
    /// The file system of the data-dir takes no writes, or the root's does not after errors.
    pub read_only: bool,
    /// The system's clock follows a time server.
    pub clock_synced: Option<bool>,
    /// Containers' memory can be limited.
    pub memory_limits: bool,
}

/// Where a board says how it fares.
#[derive(Clone, Debug)]
pub struct VitalSigns {
    root: PathBuf,
    data_dir: PathBuf,
    undervoltage: Option<PathBuf>,
    throttled: Option<PathBuf>,
    thermal: Option<PathBuf>,
    /// States of cooling devices that slow the processor.
    cooling: Vec<PathBuf>,
    throttle_celsius: i32,
}

impl VitalSigns {
    /// Looks for the places that the profile names, in `root` (`/`, or a folder that looks like it).
    pub fn find(root: &Path, profile: &BoardProfile, data_dir: &Path) -> Self {
        let inside = |path: &String| root.join(path.trim_start_matches('/'));
        let sensors = &profile.sensors;
        let existing = |path: &Option<String>| path.as_ref().map(inside).filter(|it| it.is_file());
        Self {
            root: root.to_owned(),
            data_dir: fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned()),
            undervoltage: sensors.undervoltage.as_ref().and_then(|alarm| alarm_file(root, alarm)),
            throttled: existing(&sensors.throttled),
            thermal: existing(&sensors.thermal),
            cooling: cooling(root),
            throttle_celsius: i32::try_from(sensors.throttle_celsius).unwrap_or(i32::MAX),
        }
    }

    /// Looks once. Blocking, as files of the kernel are.
    pub fn look(&self) -> Vitals {
        let bits =
            self.throttled.as_deref().and_then(read).and_then(|text| {
                u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
            });
        let celsius = self.thermal.as_deref().and_then(read);
        let milli_celsius: Option<i32> = celsius.and_then(|text| text.trim().parse().ok());
        let alarm = self.undervoltage.as_deref().and_then(read).map(|text| text.trim() == "1");
        let low = bits.map(|bits| bits & BIT_UNDERVOLTAGE != 0);
        let states = self.cooling.iter().filter_map(|path| read(path)?.trim().parse::<i64>().ok());
        let cooled = states.reduce(i64::max).map(|state| state > 0);
        let hot = milli_celsius.map(|it| it >= self.throttle_celsius.saturating_mul(1_000));
        Vitals {
            undervoltage: any([alarm, low]),
            throttled: any([bits.map(|bits| bits & BITS_THROTTLED != 0), cooled, hot]),
            milli_celsius,
            read_only: self.is_read_only(),
            clock_synced: clock::synchronised(),
            memory_limits: CgroupFacts::read_from(&self.root).has("memory"),
        }
    }

    /// A root that is read-only on purpose has no errors, and its data-dir lies elsewhere.
    fn is_read_only(&self) -> bool {
        let mounts = mounts(&read(&self.root.join("proc/self/mountinfo")).unwrap_or_default());
        let data = mount_of(&mounts, &self.data_dir);
        let top = mount_of(&mounts, Path::new("/"));
        data.is_some_and(|mount| mount.read_only)
            || top.is_some_and(|mount| mount.read_only && mount.errors(&self.root) > 0)
    }
}

/// True when any says so, false when none does, `None` when none says anything.
fn any<const N: usize>(says: [Option<bool>; N]) -> Option<bool> {
    says.into_iter().flatten().reduce(|one, other| one || other)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders
}

fn alarm_file(root: &Path, alarm: &Alarm) -> Option<PathBuf> {
    let named = |folder: &PathBuf| {
        read(&folder.join("name")).is_some_and(|name| name.trim() == alarm.hwmon)
    };
    let folder = folders(&root.join("sys/class/hwmon")).into_iter().find(named)?;
    Some(folder.join(&alarm.file)).filter(|path| path.is_file())
}

fn cooling(root: &Path) -> Vec<PathBuf> {
    let slows =
        |folder: &PathBuf| read(&folder.join("type")).is_some_and(|kind| kind.contains("cpufreq"));
    let devices = folders(&root.join("sys/class/thermal")).into_iter().filter(slows);
    devices.map(|folder| folder.join("cur_state")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::profile::profile;
    use super::super::testing::Tree;
    use super::*;

    fn pi(tree: &Tree) -> VitalSigns {
        let profile = profile(&["raspberrypi,4-model-b".to_owned()]);
        VitalSigns::find(tree.path(), &profile, Path::new("/var/lib/kumquat"))
    }

    #[test]
    fn a_pi_tells_voltage_speed_and_temperature() {
        let tree = Tree::new(&[
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
            ("sys/class/thermal/thermal_zone0/temp", "51121\n"),
            ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "0\n"),
            ("sys/class/thermal/cooling_device1/type", "pwm-fan\n"),
            ("sys/class/thermal/cooling_device1/cur_state", "4\n"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n"),
        ]);
        let signs = pi(&tree);
        let fine = signs.look();
        assert_eq!(fine.milli_celsius, Some(51_121));
        assert_eq!(
            (fine.undervoltage, fine.throttled),
            (Some(false), Some(false)),
            "bits of the past"
        );
        let check = |path: &str, text: &str, undervoltage: bool, throttled: bool| {
            let before = tree.read(path);
            tree.write(path, text);
            let seen = signs.look();
            let expected = (Some(undervoltage), Some(throttled));
            assert_eq!((seen.undervoltage, seen.throttled), expected, "{path}: {text}");
            tree.write(path, &before);
        };
        check("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n", true, false);
        check("sys/devices/platform/soc/soc:firmware/get_throttled", "50001\n", true, false);
        check("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n", true, true);
        check("sys/devices/platform/soc/soc:firmware/get_throttled", "80008\n", false, true);
        check("sys/class/thermal/cooling_device0/cur_state", "2\n", false, true);
        check("sys/class/thermal/thermal_zone0/temp", "80000\n", false, true);
        assert_eq!(signs.look(), fine);
    }

    #[test]
    fn a_board_that_tells_nothing_is_unknown() {
        let tree = Tree::new(&[]);
        let seen = pi(&tree).look();
        assert_eq!((seen.undervoltage, seen.throttled, seen.milli_celsius), (None, None, None));
        assert!(!seen.read_only && !seen.memory_limits);
    }

    #[test]
    fn a_root_that_fell_read_only_is_told_from_one_that_is_meant_to_be() {
        let info = "proc/self/mountinfo";
        let card = |options: &str| {
            format!("25 1 179:2 / / {options},noatime - ext4 /dev/mmcblk0p2 {options}\n")
        };
        let tree = Tree::new(&[("sys/fs/ext4/mmcblk0p2/errors_count", "0\n")]);
        let check = |text: &str, expected: bool| {
            tree.write(info, text);
            assert_eq!(pi(&tree).look().read_only, expected, "{text}");
        };
        let ssd = "26 25 8:1 / /var/lib rw - ext4 /dev/sda1 rw\n";
        check(&card("rw"), false);
        check(&card("ro"), true);
        check(&format!("{}{ssd}", card("ro")), false);
        tree.write("sys/fs/ext4/mmcblk0p2/errors_count", "3\n");
        check(&format!("{}{ssd}", card("ro")), true);
        check(&format!("{}{ssd}", card("rw")), false);
    }

    #[test]
    fn memory_limits_come_back_with_the_controller() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let tree = Tree::new(&[
            ("proc/self/mountinfo", mountinfo),
            ("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
        ]);
        let signs = pi(&tree);
        assert!(!signs.look().memory_limits);
        tree.write("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        assert!(signs.look().memory_limits);
    }
}
