//! Arguments and help of `kumquat backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::limits::BACKUP_KEEP_MAX;

use super::OutputArgs;

/// `kumquat backup`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum BackupCommand {
    /// Save the whole cluster to one sealed file, and read it back (on the board that leads).
    #[command(
        after_help = "Examples:\n  sudo kumquat backup save /mnt/usb/lab.backup             opens with the cluster's recovery key\n  sudo kumquat backup save --to /mnt/usb --keep 7          a name with the date; the newest seven stay\n  sudo kumquat backup save lab.backup --key-file phrase    opens with the passphrase in that file\n  pass show lab | sudo kumquat backup save lab.backup --key-file -\n\nBy itself every day: write into /etc/kumquat/config.toml of the masters, and restart them\n  [backup]\n  every = \"24h\"\n  to = \"/mnt/usb\"\n  keep = 7\nA folder on the board's own disk is refused, since a stick that is not mounted looks so; write\n`same-disk = true` if you mean it. `kumquat status` warns when there is no backup.\n\nIt holds every object, the keys of the cluster and who belongs to it; not the images, volumes and Events.\nThe file gets its name when it is whole and was read back from the disk."
    )]
    Save(SaveArgs),
    /// Read a backup to its end and check all of it; needs no running board.
    #[command(
        after_help = "Examples:\n  sudo kumquat backup verify /mnt/usb/lab.backup                  on a master of the cluster\n  kumquat backup verify lab.backup --key-file recovery-key        anywhere\n  kumquat backup verify lab.backup --key-file key -o json         {cluster, taken, epoch, version, objects, boards, bytes, ...}"
    )]
    Verify(VerifyArgs),
    /// Print the recovery key, which opens the backups that were saved without a passphrase.
    #[command(
        after_help = "Example:\n  sudo kumquat backup key     on any master, also one that does not run; write it down, and keep it\n                              where no board is\n\nIt is made from the authority's key: all masters print the same one, and it stays the same as long as\nthe authority does. Whoever has it and a backup has the cluster."
    )]
    Key,
    /// Make a fresh board the master of a saved cluster.
    #[command(
        after_help = "Example: all masters are gone\n  sudo kumquat backup restore /mnt/usb/lab.backup --key-file recovery-key --name pi-9\n  sudo kumquat up\n\nThe board has a name that no board of the cluster has. Boards that are left come to it by themselves, without a\ntoken, and their pods run on. Boards thrown out before the backup stay out; throw those thrown out since\nthen out again. Its join tokens are not brought back: make new ones. An old master that turns up again is fenced:\nit gives up what it has and becomes a worker or a learner. What was written after the backup is lost;\nversions go on above it. Only a cluster that was promoted or restored since the backup needs --epoch."
    )]
    Restore(RestoreArgs),
}

/// `kumquat backup save`.
#[derive(Args, Clone, Debug)]
pub(in crate::app) struct SaveArgs {
    /// The file to write; what has that name is replaced once the new one is whole.
    #[arg(conflicts_with = "to", required_unless_present = "to")]
    pub(super) file: Option<PathBuf>,
    /// Write a file with cluster, date and version in its name into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(super) to: Option<PathBuf>,
    /// Then remove all but so many backups of this cluster from the folder.
    #[arg(long, value_name = "N", requires = "to", value_parser = clap::value_parser!(u32).range(1..=i64::from(BACKUP_KEEP_MAX)))]
    pub(super) keep: Option<u32>,
    /// File with a passphrase of your own; `-` reads standard input [default: the variable
    /// KUMQUAT_BACKUP_KEY, or else the cluster's recovery key].
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `kumquat backup verify`.
#[derive(Args, Clone, Debug)]
pub(in crate::app) struct VerifyArgs {
    /// The backup.
    pub(super) file: PathBuf,
    /// File with the passphrase or the recovery key; `-` reads standard input [default: the variable
    /// KUMQUAT_BACKUP_KEY, or else the key of the cluster whose master this board is].
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `kumquat backup restore`.
#[derive(Args, Clone, Debug)]
pub(in crate::app) struct RestoreArgs {
    /// The backup.
    pub(super) file: PathBuf,
    /// File with the passphrase or the recovery key; `-` reads standard input [default: the variable
    /// KUMQUAT_BACKUP_KEY].
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Name of this board, which no board of the cluster may have [default: the host name].
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Epoch in which the cluster goes on, above every one that its boards have seen (`kumquat status
    /// -o json` on them) [default: the one after the backup's].
    #[arg(long, value_name = "N")]
    pub(super) epoch: Option<u64>,
}
