//! Emulated ARM boards (QEMU, Debian's own kernel) with clocks that are really set, in one cluster with
//! ordinary boards. A trial of minutes: `cargo xtask soak emulated` brings what it needs and runs it.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
mod founder;
#[path = "../harness/initramfs.rs"]
mod initramfs;
#[path = "../harness/machine.rs"]
mod machine;
#[path = "../harness/switch.rs"]
mod switch;
mod worker;
#[path = "../harness/wrong_clocks.rs"]
mod wrong_clocks;

use std::time::Duration;

use machine::{Machine, now};
use wrong_clocks::{JUMPS, TO_1970, TWENTY_YEARS};

const NODES: &str = "/api/v1/nodes";
/// Generous, for a machine that is emulated; what was measured is printed.
const WITHIN: Duration = Duration::from_secs(120);

/// What an emulated board's clock is set to, and whether a time server keeps it.
#[derive(Clone, Copy, Debug)]
enum Date {
    In1970,
    In20Years,
    Jumping,
    Right,
    In20YearsSynced,
}

impl Date {
    /// Sets it with `date -s`; a jumping one has jumped then, and is right.
    fn set(self, machine: &mut Machine) {
        match self {
            Self::In1970 => machine.set_date(now() + TO_1970, false),
            Self::In20Years => machine.set_date(now() + TWENTY_YEARS, false),
            Self::Right => machine.set_date(now(), true),
            Self::In20YearsSynced => machine.set_date(now() + TWENTY_YEARS, true),
            Self::Jumping => {
                for seconds in JUMPS {
                    machine.set_date(now() + seconds, false);
                    // Longer than the clock is believed without a look.
                    std::thread::sleep(Duration::from_millis(400));
                }
            }
        }
    }
}
