//! Backups by themselves, where they are wished.

use super::Core;
use crate::app::backup;
use crate::app::loops::Loops;
use crate::app::seat::Base;

impl Core<'_> {
    /// Saves as `[backup]` in config.toml says, while this board leads.
    pub(super) fn keep_saving(&self, loops: &mut Loops) {
        let Base { config, identity, dirs, .. } = self.base;
        let Some(plan) = config.backup.clone() else { return };
        let source = self.standing.backup(identity, &self.registry);
        let saving = backup::keep_saving(plan, source, dirs.data.clone(), loops.stop_signal());
        loops.spawn("backups", async move {
            saving.await;
            anyhow::Ok(())
        });
    }
}
