//! The systemd unit of kumquat, with its drop-ins.

use std::path::Path;

use logic::doctor::Unit;

use super::{names, read};

/// Where units lie, the ones that win first (systemd.unit(5)).
const FOLDERS: [&str; 3] = ["etc/systemd/system", "run/systemd/system", "lib/systemd/system"];

pub(super) fn unit(root: &Path) -> Option<Unit> {
    let path = |folder: &str| format!("{folder}/kumquat.service");
    let folder = FOLDERS.into_iter().find(|folder| root.join(path(folder)).is_file())?;
    let mut text = read(root, &path(folder));
    for folder in FOLDERS.iter().rev() {
        let drop_ins = format!("{folder}/kumquat.service.d");
        for name in names(&root.join(&drop_ins)).iter().filter(|name| name.ends_with(".conf")) {
            text.push('\n');
            text.push_str(&read(root, &format!("{drop_ins}/{name}")));
        }
    }
    // The last one counts.
    let value = |key: &str| {
        let mut values =
            text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        values.next_back().unwrap_or_default().trim().to_owned()
    };
    let delegate = value("Delegate").to_lowercase();
    Some(Unit {
        path: format!("/{}", path(folder)),
        kill_mode: value("KillMode"),
        // A list of controllers says yes too.
        delegate: !matches!(delegate.as_str(), "" | "no" | "false" | "0" | "off"),
    })
}
