//! Readers of the kernel's text files. Pure.

/// A line of /proc/meminfo in bytes.
pub(super) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Tasks that exist, from /proc/loadavg.
pub(super) fn loadavg_tasks(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// How many CPUs a list like `0-3,6` names.
pub(super) fn cpu_list(text: &str) -> Option<u32> {
    let mut count: u32 = 0;
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// `PRETTY_NAME` of os-release(5).
pub(super) fn os_release(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(|c| c == '"' || c == '\'');
    (!value.is_empty()).then(|| value.to_owned())
}

/// Strings of a device-tree property, each ended by a zero byte.
pub(super) fn device_tree_strings(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|&byte| byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// Instruction set of a 32-bit ARM board from /proc/cpuinfo.
///
/// The model's name counts before the number: a Pi Zero (ARMv6) says `CPU architecture: 7`.
pub(super) fn arm_version(cpuinfo: &str) -> Option<u8> {
    if !cfg!(target_arch = "arm") && !cfg!(test) {
        return None;
    }
    let value = |name: &str| {
        let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name)
    };
    if let Some((_, model)) = value("model name")
        && let Some(rest) = model.strip_prefix("ARMv")
        && let Some(version) = rest.chars().next().and_then(|c| c.to_digit(10))
    {
        return u8::try_from(version.clamp(5, 7)).ok();
    }
    let number = value("CPU architecture")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    u8::try_from(digits.parse::<u32>().ok()?.clamp(5, 7)).ok()
}

/// Interfaces that have a default route in /proc/net/route, the preferred first.
pub(super) fn default_routes(text: &str) -> Vec<String> {
    let mut routes: Vec<(u32, String)> = text
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            let destination = fields.next()?;
            let metric = fields.nth(4)?.parse().ok()?;
            let mask = fields.next()?;
            (destination == "00000000" && mask == "00000000").then(|| (metric, name.to_owned()))
        })
        .collect();
    routes.sort();
    routes.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lines() {
        let text = "MemTotal:       16384 kB\nMemTotalX: 1 kB\nHugePages_Total:       0\n";
        let check = |name, expected| assert_eq!(meminfo(text, name), expected, "{name}");
        check("MemTotal", Some(16384 * 1024));
        check("HugePages_Total", None);
        check("Swap", None);
    }

    #[test]
    fn cpu_lists() {
        let check = |text, expected| assert_eq!(cpu_list(text), expected, "{text}");
        check("0\n", Some(1));
        check("0-3\n", Some(4));
        check("0-1,4,6-7", Some(5));
        check("", None);
        check("3-1", None);
        check("0-4294967295", None);
    }

    #[test]
    fn arm_versions() {
        let check = |text, expected| assert_eq!(arm_version(text), expected, "{text}");
        check(
            "model name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n",
            Some(6),
        );
        check("model name\t: ARMv7 Processor rev 4 (v7l)\n", Some(7));
        check("processor: 0\nCPU architecture: 8\n", Some(7));
        check("CPU architecture: 5TEJ\n", Some(5));
        check("vendor_id: x\n", None);
    }

    #[test]
    fn default_routes_by_metric() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_routes(text), ["eth0", "wlan0"]);
        assert_eq!(default_routes(""), Vec::<String>::new());
    }

    #[test]
    fn names_of_systems_and_boards() {
        assert_eq!(os_release("PRETTY_NAME='X 1'\n").as_deref(), Some("X 1"));
        assert_eq!(os_release("PRETTY_NAME=\nNAME=y"), None);
        assert_eq!(device_tree_strings(b"a,b\0c\0"), ["a,b", "c"]);
        assert_eq!(device_tree_strings(b""), Vec::<String>::new());
    }
}
