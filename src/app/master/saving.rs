//! Backups by themselves, where they are wished.

use super::Core;
use crate::app::backup::{Schedule, Worry};
use crate::app::loops::Loops;
use crate::app::seat::Base;

impl Core<'_> {
    /// Saves as `[backup]` in config.toml says, while this board leads; tells why it cannot.
    pub(super) fn keep_saving(&self, worry: &Worry, loops: &mut Loops) {
        let Base { config, identity, dirs, .. } = self.base;
        let Some(plan) = config.backup.clone() else { return };
        let source = self.standing.backup(identity, &self.registry);
        let schedule = Schedule::new(plan, source, dirs.data.clone(), worry.clone());
        let saving = schedule.run(loops.stop_signal());
        loops.spawn("backups", async move {
            saving.await;
            anyhow::Ok(())
        });
    }
}
