//! Where this board tells of writes.

use crate::app::config::Config;
use crate::app::loops::Loops;
use crate::master::audit::{Audit, AuditLines, AuditTo};

/// Tells who wrote what where it is wished; gives the lines that go over the bus.
pub(super) fn audit(config: &Config, loops: &mut Loops) -> (Audit, Option<AuditLines>) {
    if config.audit == AuditTo::Off {
        return (Audit::off(), None);
    }
    let (audit, lines) = Audit::to_lines();
    if config.audit == AuditTo::Bus {
        return (audit, Some(lines));
    }
    let writing = lines.to_stdout(loops.stop_signal());
    loops.spawn("audit", async move {
        writing.await;
        anyhow::Ok(())
    });
    (audit, None)
}
