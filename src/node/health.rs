//! What a board suffers from: conditions that it reports only while they are true, each with what a
//! person can do about it.
//!
//! In: what `io::host` sees now and then. Out: which ailments there are, and which came or went. An
//! ailment that comes and goes by the second (voltage, heat) lasts until it was away for a while, so
//! that it does not write to the master's disk for ever.

use std::collections::BTreeMap;

use model::profile::{BoardProfile, KernelFile};
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::io::host::Vitals;

/// How long voltage and speed must be fine before they count so.
const QUIET_MILLIS: u64 = 60_000;

/// What a board can suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ailment {
    /// The system's clock follows no time server.
    ClockUnsynced,
    /// Containers' memory cannot be limited.
    MemoryLimitsMissing,
    /// The disk takes no writes.
    ReadOnlyRoot,
    /// The processor is slowed down.
    Throttling,
    /// The supply voltage is too low.
    Undervoltage,
}

/// All of them.
const AILMENTS: [Ailment; 5] = [
    Ailment::ClockUnsynced,
    Ailment::MemoryLimitsMissing,
    Ailment::ReadOnlyRoot,
    Ailment::Throttling,
    Ailment::Undervoltage,
];

impl Ailment {
    /// Type of its condition and reason of its event.
    fn kind(self) -> &'static str {
        match self {
            Self::ClockUnsynced => "ClockUnsynced",
            Self::MemoryLimitsMissing => "MemoryLimitsMissing",
            Self::ReadOnlyRoot => "ReadOnlyRoot",
            Self::Throttling => "Throttling",
            Self::Undervoltage => "Undervoltage",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::ClockUnsynced => "NoTimeServer",
            Self::MemoryLimitsMissing => "NoMemoryCgroup",
            Self::ReadOnlyRoot => "DiskIsReadOnly",
            Self::Throttling => "ProcessorIsSlowed",
            Self::Undervoltage => "VoltageTooLow",
        }
    }

    fn is_seen(self, vitals: &Vitals) -> bool {
        match self {
            Self::ClockUnsynced => vitals.clock_synced == Some(false),
            Self::MemoryLimitsMissing => !vitals.memory_limits,
            Self::ReadOnlyRoot => vitals.read_only,
            Self::Throttling => vitals.throttled == Some(true),
            Self::Undervoltage => vitals.undervoltage == Some(true),
        }
    }

    /// How long it must be away to be over.
    fn quiet_millis(self) -> u64 {
        match self {
            Self::Throttling | Self::Undervoltage => QUIET_MILLIS,
            Self::ClockUnsynced | Self::MemoryLimitsMissing | Self::ReadOnlyRoot => 0,
        }
    }

    /// What is wrong, and what a person can do.
    fn message(self, board: &str, about: &About) -> String {
        let sensors = &about.profile.sensors;
        match self {
            Self::ClockUnsynced => format!(
                "the clock of board {board} follows no time server (cluster time goes on from the \
                 master's): run `timedatectl set-ntp true`, or give it a time server"
            ),
            Self::MemoryLimitsMissing => format!(
                "board {board} has no memory cgroup, so memory limits are not enforced: {}",
                about.kernel_file.remedy(&about.profile.kernel.words)
            ),
            Self::ReadOnlyRoot => format!(
                "the disk of board {board} takes no writes, as worn-out cards do after errors: look at \
                 `dmesg`, save what matters, replace the card"
            ),
            Self::Throttling => format!(
                "board {board} is hot or short of power and slows down ({} °C is its limit): give it a \
                 heat sink or a fan, and a better power supply",
                sensors.throttle_celsius
            ),
            Self::Undervoltage => {
                let supply = sensors.supply.as_deref().unwrap_or("enough for it");
                format!(
                    "the supply voltage of board {board} is too low, which damages cards and resets \
                     boards: use a supply of {supply} with a short, thick cable, and fewer USB devices"
                )
            }
        }
    }
}

/// What the messages need to know of the board.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    pub(super) profile: BoardProfile,
    pub(super) kernel_file: KernelFile,
}

/// An ailment that came, or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    ailment: Ailment,
    came: bool,
}

/// What a board suffers from.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// When each was seen last, in milliseconds since boot.
    seen: BTreeMap<Ailment, u64>,
}

impl Health {
    /// Takes what is seen now, and gives what changed by that.
    pub(super) fn look_again(&mut self, vitals: &Vitals, now_ticks: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for ailment in AILMENTS {
            if ailment.is_seen(vitals) {
                if self.seen.insert(ailment, now_ticks).is_none() {
                    changes.push(Change { ailment, came: true });
                }
            } else if let Some(last) = self.seen.get(&ailment)
                && now_ticks.saturating_sub(*last) >= ailment.quiet_millis()
            {
                self.seen.remove(&ailment);
                changes.push(Change { ailment, came: false });
            }
        }
        changes
    }

    /// The conditions that say so; their times are the master's to set.
    pub(super) fn conditions(&self, board: &str, about: &About, now: Timestamp) -> Vec<Value> {
        let condition = |ailment: &Ailment| {
            json!({
                "type": ailment.kind(),
                "status": "True",
                "lastHeartbeatTime": now.to_string(),
                "lastTransitionTime": now.to_string(),
                "reason": ailment.reason(),
                "message": ailment.message(board, about),
            })
        };
        self.seen.keys().map(condition).collect()
    }
}

impl Change {
    /// The Event object about the board's Node (core/v1 Event without name and uid; kubelet's events
    /// name the Node by its name in place of a uid).
    pub(super) fn event(self, board: &str, about: &About, now: Timestamp) -> Value {
        let kind = self.ailment.kind();
        let (level, reason, message) = match self.came {
            true => ("Warning", kind.to_owned(), self.ailment.message(board, about)),
            false => ("Normal", format!("{kind}Over"), format!("board {board}: {kind} is over")),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "namespace": "default" },
            "involvedObject": { "kind": "Node", "name": board, "uid": board },
            "reason": reason,
            "message": message,
            "type": level,
            "source": { "component": "kubelet", "host": board },
            "reportingComponent": "kubelet",
            "reportingInstance": board,
            "firstTimestamp": now.to_string(),
            "lastTimestamp": now.to_string(),
            "count": 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Vitals = Vitals {
        undervoltage: Some(false),
        throttled: Some(false),
        milli_celsius: Some(50_000),
        read_only: false,
        clock_synced: Some(true),
        memory_limits: true,
    };

    fn kinds(changes: &[Change]) -> Vec<(&'static str, bool)> {
        changes.iter().map(|change| (change.ailment.kind(), change.came)).collect()
    }

    #[test]
    fn an_ailment_comes_once_and_goes_once() {
        let mut health = Health::default();
        assert_eq!(health.look_again(&FINE, 0), []);
        assert_eq!(health.look_again(&Vitals::default(), 0).len(), 1, "memory limits are unknown");
        assert_eq!(kinds(&health.look_again(&FINE, 0)), [("MemoryLimitsMissing", false)]);
        let check = |bad: Vitals, kind: &'static str, quiet: u64| {
            let mut health = Health::default();
            assert_eq!(kinds(&health.look_again(&bad, 1_000)), [(kind, true)]);
            assert_eq!(health.look_again(&bad, 11_000), []);
            let said = health.conditions("pi-1", &About::default(), Timestamp(0));
            assert_eq!((said.len(), said[0]["type"].as_str()), (1, Some(kind)));
            if quiet > 0 {
                assert_eq!(health.look_again(&FINE, 11_000 + quiet - 1), [], "{kind}");
            }
            assert_eq!(kinds(&health.look_again(&FINE, 11_000 + quiet)), [(kind, false)]);
            assert!(health.conditions("pi-1", &About::default(), Timestamp(0)).is_empty());
        };
        check(Vitals { undervoltage: Some(true), ..FINE }, "Undervoltage", QUIET_MILLIS);
        check(Vitals { throttled: Some(true), ..FINE }, "Throttling", QUIET_MILLIS);
        check(Vitals { read_only: true, ..FINE }, "ReadOnlyRoot", 0);
        check(Vitals { clock_synced: Some(false), ..FINE }, "ClockUnsynced", 0);
        check(Vitals { memory_limits: false, ..FINE }, "MemoryLimitsMissing", 0);
    }

    #[test]
    fn what_a_board_does_not_tell_is_no_ailment() {
        let silent = Vitals { memory_limits: true, ..Vitals::default() };
        assert_eq!(Health::default().look_again(&silent, 0), []);
    }

    #[test]
    fn messages_and_events_say_what_to_do() {
        let strings = ["raspberrypi,4-model-b".to_owned()];
        let profile = crate::io::host::profile(&strings);
        let path = profile.kernel.files[0].clone();
        let about = About { profile, kernel_file: KernelFile { path, text: String::new() } };
        let check = |ailment: Ailment, part: &str| {
            let came = Change { ailment, came: true }.event("pi-1", &about, Timestamp(0));
            let message = came["message"].as_str().expect("text");
            assert!(message.contains(part) && message.contains("pi-1"), "{message}");
            assert_eq!(
                (&came["type"], &came["reason"]),
                (&json!("Warning"), &json!(ailment.kind()))
            );
            let went = Change { ailment, came: false }.event("pi-1", &about, Timestamp(0));
            assert_eq!(went["type"], "Normal");
        };
        check(Ailment::Undervoltage, "5.1 V, 3 A");
        check(Ailment::Throttling, "80 °C");
        check(Ailment::MemoryLimitsMissing, "one line of /boot/firmware/cmdline.txt");
        check(Ailment::ClockUnsynced, "timedatectl");
        check(Ailment::ReadOnlyRoot, "replace the card");
    }
}
