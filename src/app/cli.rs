//! The command line: every subcommand, its flags and its help.
//!
//! A contract with scripts and tests outside this repository: flags are only ever added.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Kubernetes cluster for small ARM boards: one binary per board, no internet needed.
#[derive(Debug, Parser)]
#[command(
    name = "kumquat",
    version = crate::app::version::TEXT,
    arg_required_else_help = true,
    after_help = "Start here:\n  kumquat up                            make this board a cluster\n  kumquat kubeconfig > ~/.kube/config   then use kubectl\n  kumquat token create                  for the next board: kumquat up --token TOKEN\n  kumquat demo                          see it work, and leave nothing behind"
)]
pub(super) struct Cli {
    /// Where this board keeps its state.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/kumquat")]
    pub data_dir: PathBuf,
    /// Where this board keeps sockets and other things that a reboot clears.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/kumquat")]
    pub run_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run this board: found a cluster, join one, or come back to the one it belongs to.
    #[command(
        after_help = "Examples:\n  sudo kumquat up                                  found a cluster, or come back to it\n  sudo kumquat up --name pi-1 --cluster lab        with names of your own (kept for life)\n  sudo kumquat up --data-dir /mnt/ssd/kumquat      with its state on another disk\n\nThree identical boards:\n  any$  kumquat token create --bootstrap           prints kq0...\n  each$ sudo kumquat up --token kq0... --expect 3  one of them founds, the others join it\n\nTwo boards:\n  pi-1$ sudo kumquat up &                          founds the cluster\n  pi-1$ sudo kumquat token create                  prints kq1...\n  pi-2$ sudo kumquat up --token kq1... &           joins it; the cluster is found over mDNS\n  pi-2$ sudo kumquat up --token kq1... --peers 192.168.1.10    the same where multicast is filtered\n  pi-1$ sudo kumquat wait --boards 2\n\nA board needs its token once: from then on `kumquat up` comes back to its cluster, and its pods run\nwhether the master is there or not. Pods go on when the process stops; --stop-pods stops them with it."
    )]
    Up(Box<UpArgs>),
    /// Wait until the cluster has what you ask for; exit 3 when it takes too long.
    #[command(
        after_help = "Examples:\n  kumquat wait                          until this board is ready, 60 s at most\n  kumquat wait --boards 3 --timeout 5m  until three boards are ready\n  kumquat wait --voters 3               until three masters vote"
    )]
    Wait(WaitArgs),
    /// Show the cluster as this board sees it.
    #[command(
        after_help = "Examples:\n  kumquat status              boards, and warnings with their remedies\n  kumquat status --watch      again at every change\n  kumquat status -o json      for programs: {cluster, epoch, term, leader, boards, voters, warnings}"
    )]
    Status(StatusArgs),
    /// List the boards of the cluster, let one in, throw one out.
    #[command(
        subcommand,
        after_help = "Examples:\n  kumquat board list                  every board: where it is, whether it is ready, how many pods it has\n  kumquat board list -o json          for programs\n  sudo kumquat board approve pi-4     lets in a board that waits (`kumquat up --join`) and shows the same words\n  sudo kumquat board evict pi-4       throws a board out for good; prints the Secrets that it had"
    )]
    Board(BoardCommand),
    /// Save the whole cluster to one sealed file, check such a file, restore a cluster from it.
    #[command(
        subcommand,
        after_help = "Examples:\n  sudo kumquat backup key                                  the key that opens the backups: write it down\n  sudo kumquat backup save --to /mnt/usb --keep 7          now; by itself: see `kumquat backup save --help`\n  sudo kumquat backup verify /mnt/usb/kumquat-lab-*.backup\n  sudo kumquat backup restore lab.backup --key-file key    on a fresh board, when all masters are gone"
    )]
    Backup(super::backup::BackupCommand),
    /// Make, list and revoke the tokens with which boards join (on a master board).
    #[command(
        subcommand,
        after_help = "Examples:\n  sudo kumquat token create                          for one board, good for a day\n  sudo kumquat up --token $(cat token)               on that board\n  sudo kumquat token create --uses 9 --ttl 1h        for nine boards within the hour\n  sudo kumquat token list                            which boards came with which token\n  sudo kumquat token revoke abcdefgh                 by its id; boards that have joined stay\n\nA token is a secret: who has it can bring a board into the cluster. It also says which cluster to\nbelieve, so a board that joins with it cannot be caught by another."
    )]
    Token(TokenCommand),
    /// Secrets at rest (on the board that leads).
    #[command(
        subcommand,
        after_help = "Example:\n  sudo kumquat secrets rotate     another key seals from now on; what there is is sealed anew\n\nSecrets are sealed in log, state and snapshots: that protects copies and backups of them, not a stolen\ncard, which carries the key (pki/secrets.key) too."
    )]
    Secrets(SecretsCommand),
    /// Print the admin kubeconfig (needs root on a master board).
    #[command(
        after_help = "Examples:\n  sudo kumquat kubeconfig > ~/.kube/config\n  sudo kumquat kubeconfig --server https://pi-1.local:6443     by another name of this board"
    )]
    Kubeconfig(KubeconfigArgs),
    /// Import, list, export and remove container images on this board.
    #[command(
        subcommand,
        after_help = "Examples:\n  docker save my-app:v1 | sudo kumquat image import -\n  sudo kumquat image list\n  sudo kumquat image rm my-app:v1"
    )]
    Image(ImageCommand),
    /// Show a cluster with a real workload on this machine, then remove all of it.
    #[command(
        after_help = "Examples:\n  sudo kumquat demo           look around with kubectl, then Ctrl-C\n  sudo kumquat demo --once    verify, clean up, exit 0 when all went well"
    )]
    Demo(DemoArgs),
    /// Tell what this board lacks, and the exact remedy; exit 1 when something does not work.
    #[command(
        after_help = "Examples:\n  sudo kumquat doctor              before the first `kumquat up`, and whenever something is odd\n  sudo kumquat doctor -o json      {state, board, findings: [{check, state, what, remedy}]}\n\nIt changes nothing and needs no running board; when one runs, its warnings are shown too."
    )]
    Doctor(OutputArgs),
    /// Let this board lead although the master that decides is gone for good (two boards).
    #[command(
        after_help = "Example:\n  sudo kumquat promote      on the board that is left; `kumquat status` shows it as a learner\n\nEverything that its log holds counts from then on, in a new epoch. The old master may come back: it\nfinds that it was fenced, gives up what only it had, and becomes a learner. It is refused while the\nleader answers or enough boards that decide are there to choose one; of three or more that decide, when\ntoo few answer, only you can tell whether they are gone or only cut off from this board: --force."
    )]
    Promote(PromoteArgs),
    /// Give every board another binary, one after the other; boards that do not get ready with it go back.
    #[command(
        after_help = "Examples:\n  sudo kumquat upgrade --from kumquat-arm64                   on a master board\n  sudo kumquat upgrade --from kumquat-arm64 --from kumquat-armv6   one file for each architecture\n  sudo kumquat upgrade --from kumquat-arm64 --dry-run\n\nWorkers come first, then masters, the leader last; pods do not notice. A board that is not ready with\nthe new binary in time goes back to the old one by itself, and no further board is touched (exit 1).\nRun it again at any time: boards that run their file are left alone."
    )]
    Upgrade(UpgradeArgs),
    /// Continue with a damaged log by giving up what was written after a version.
    #[command(
        after_help = "Example:\n  sudo kumquat repair --accept-loss-after 29360128\n\nThe error of `kumquat up` names the last good version. Stop the board first; versions are never\ngiven out twice. Where other masters have the log, a damaged copy is replaced by itself. When they are gone for\ngood and this is the last copy, say --last-copy: it leads alone then, and the others are fenced."
    )]
    Repair(RepairArgs),
    /// Print the version.
    #[command(
        after_help = "Examples:\n  kumquat version\n  kumquat version -o json     {version, kubernetes, gitVersion, arch}"
    )]
    Version(OutputArgs),
    /// The workload of the demo: greets, or calls those who greet.
    #[command(hide = true)]
    Hello(HelloArgs),
}

/// `kumquat hello`.
#[derive(Args, Debug)]
pub(super) struct HelloArgs {
    /// Call these instead of greeting, and end.
    #[arg(long = "call", value_name = "NAME[:PORT]")]
    pub calls: Vec<String>,
    /// How often to call each, each time on a connection of its own.
    #[arg(long, default_value_t = 30)]
    pub times: u32,
}

/// `kumquat up`.
#[derive(Args, Debug, Default)]
pub(super) struct UpArgs {
    /// Name of this board [default: the host name].
    #[arg(long)]
    pub name: Option<String>,
    /// Name of the cluster [default: kumquat].
    #[arg(long)]
    pub cluster: Option<String>,
    /// What this board may be.
    #[arg(long, value_enum)]
    pub role: Option<Role>,
    /// Port of the Kubernetes API [default: 6443].
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Port of the bus between masters and boards [default: 8883].
    #[arg(long, value_name = "PORT")]
    pub mqtt_port: Option<u16>,
    /// Port of the masters among each other [default: 7443].
    #[arg(long, value_name = "PORT")]
    pub peer_port: Option<u16>,
    /// Interface whose address others reach this board at [default: the one with the default route].
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Token of the cluster to join, from `kumquat token create` on its master board; or of boards that
    /// found one together, from `kumquat token create --bootstrap`.
    #[arg(long)]
    pub token: Option<String>,
    /// Boards that found the cluster together, with a token kq0...: it is founded once most of them
    /// hear each other.
    #[arg(long, value_name = "N")]
    pub expect: Option<u32>,
    /// Join without a token: wait until somebody runs `kumquat board approve` on the master board.
    #[arg(long)]
    pub join: bool,
    /// Boards to look for the cluster at, besides those that mDNS names.
    #[arg(long, value_name = "HOST[:PORT],...", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Addresses of pods; fixed when the cluster is founded [default: 10.42.0.0/16].
    #[arg(long, value_name = "CIDR")]
    pub pod_range: Option<String>,
    /// Addresses of services; fixed when the cluster is founded [default: 10.43.0.0/16].
    #[arg(long, value_name = "CIDR")]
    pub service_range: Option<String>,
    /// Configuration file; flags win over it [default: /etc/kumquat/config.toml, when it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stop all pods of this board when the process is told to stop.
    #[arg(long)]
    pub stop_pods: bool,
}

/// The role that a board may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Master when the cluster needs one, worker always.
    Auto,
    /// Master and worker.
    Master,
    /// Worker only.
    Worker,
}

impl From<Role> for model::token::TokenRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Auto => Self::Auto,
            Role::Master => Self::Master,
            Role::Worker => Self::Worker,
        }
    }
}

/// `kumquat secrets`.
#[derive(Debug, Subcommand)]
pub(super) enum SecretsCommand {
    /// Make another key, and seal all Secrets with it in the background.
    #[command(after_help = "Example:\n  sudo kumquat secrets rotate")]
    Rotate,
}

/// `kumquat token`.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, nothing else.
    #[command(
        after_help = "Examples:\n  sudo kumquat token create                        one board, within a day\n  sudo kumquat token create --uses 9 --ttl 1h      nine boards, within an hour\n  sudo kumquat token create --role worker          a board that never becomes a master\n  kumquat token create --bootstrap                 for fresh boards that found a cluster together\n  ssh pi-1 sudo kumquat token create | ssh pi-2 'sudo kumquat up --token $(cat)'"
    )]
    Create(TokenCreateArgs),
    /// List tokens: uses left, when they expire, which boards they admitted. Never their secrets.
    #[command(
        after_help = "Examples:\n  sudo kumquat token list\n  sudo kumquat token list -o json     for programs: [{id, role, usesLeft, expires, expired, usedBy}]"
    )]
    List(OutputArgs),
    /// Make a token worthless; boards that have joined with it stay.
    #[command(
        after_help = "Example:\n  sudo kumquat token revoke abcdefgh     the id as `token list` shows it"
    )]
    Revoke {
        /// Its id, or the whole token.
        #[arg(value_parser = super::token::id)]
        id: model::token::TokenId,
    },
}

/// `kumquat token create`.
#[derive(Args, Debug)]
pub(super) struct TokenCreateArgs {
    /// How long it is good, in s, m, h or d; 0 for ever.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub ttl: Duration,
    /// How many boards it admits.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub uses: u32,
    /// What it lets a board become.
    #[arg(long, value_enum, default_value_t = Role::Auto)]
    pub role: Role,
    /// A token with which fresh boards found a cluster together; needs no running board.
    #[arg(long, conflicts_with_all = ["ttl", "uses", "role"])]
    pub bootstrap: bool,
    /// Show it as a QR code, too (on standard error, so that the token stays alone on standard output).
    #[arg(long)]
    pub qr: bool,
}

/// `kumquat wait`.
#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    /// Boards that must be ready.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub boards: usize,
    /// Voters that the master group must have.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub voters: usize,
    /// How long to wait: 500ms, 60s, 5m.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

/// `kumquat status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Print again at every change until interrupted.
    #[arg(long)]
    pub watch: bool,
}

/// `-o`.
#[derive(Args, Clone, Debug)]
pub(super) struct OutputArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `kumquat kubeconfig`.
#[derive(Args, Debug)]
pub(super) struct KubeconfigArgs {
    /// URL of the API server [default: this board's address].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// `kumquat image`.
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Load an OCI or Docker archive (from `docker save`, `podman save`, `skopeo copy`).
    #[command(
        after_help = "Examples:\n  sudo kumquat image import my-app.tar\n  docker save my-app:v1 | sudo kumquat image import -\n  docker save my-app:v1 | ssh pi-1 sudo kumquat image import -"
    )]
    Import {
        /// The archive; `-` reads standard input.
        file: PathBuf,
    },
    /// List the images on this board.
    #[command(
        after_help = "Examples:\n  sudo kumquat image list\n  sudo kumquat image list -o json     [{name, digest, id, size, platform}]"
    )]
    List(OutputArgs),
    /// Write an image as an OCI archive.
    #[command(
        after_help = "Examples:\n  sudo kumquat image export my-app:v1 my-app.tar\n  sudo kumquat image export my-app:v1 - | ssh pi-2 sudo kumquat image import -"
    )]
    Export {
        /// Image name.
        image: String,
        /// Where to; `-` writes to standard output.
        file: PathBuf,
    },
    /// Remove an image; its bytes go once no container uses it.
    #[command(after_help = "Example:\n  sudo kumquat image rm my-app:v1")]
    Rm {
        /// Image name.
        image: String,
    },
}

/// `kumquat board`.
#[derive(Debug, Subcommand)]
pub(super) enum BoardCommand {
    /// List the boards of the cluster.
    #[command(
        after_help = "Examples:\n  kumquat board list\n  kumquat board list -o json     [{name, address, role, ready, version, architecture, pods, lastHeardSeconds}]"
    )]
    List(OutputArgs),
    /// Let in a board that waits; compare the six words on both sides first.
    #[command(
        after_help = "Examples:\n  kumquat board list                                  shows who waits, and the words\n  sudo kumquat board approve pi-4                     asks whether the board shows the same words\n  sudo kumquat board approve pi-4 --words \"balon mitar kusel dofin hekam ruvin\"\n                                                      a worker; needed where nobody can be asked\n  sudo kumquat board approve pi-4 --role auto         may become a master, too"
    )]
    Approve {
        /// Its name.
        name: String,
        /// The words that it shows [default: those that the cluster knows are shown, and a person
        /// at a terminal is asked].
        #[arg(long)]
        words: Option<String>,
        /// What it may become: `auto` and `master` let it hold the keys of the cluster.
        #[arg(long, value_enum, default_value_t = Role::Worker)]
        role: Role,
    },
    /// Throw a board out for good: its key is refused at once, everywhere. Prints the Secrets that its
    /// pods had, because whoever has the board has them.
    #[command(
        after_help = "Examples:\n  sudo kumquat board evict pi-4              prints NAMESPACE/SECRET, one a line: change them\n  sudo kumquat board evict pi-4 -o json      {board, key, master, pods, secrets: [{namespace, name, pods}]}\n\nThe board comes back only with a wiped data-dir and a new token. A master is evicted also when its Node is gone\nor it has left. The old card of a board that has another one is evicted by its key instead of the name:\n`kubectl -n kube-system get configmap kumquat-holders -o yaml` shows the keys of all that were masters."
    )]
    Evict {
        /// Its name, or its key.
        name: String,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take this board out of its cluster in order; run it on the board that goes.
    ///
    /// What the board does moves to others first: the lead, its vote and its copy of the log, then its pods, which
    /// get their time to end. Then its Node is gone, its key is refused everywhere, the board forgets the
    /// cluster (images stay), and `kumquat up` ends. The next `kumquat up` begins as on a fresh card.
    #[command(
        after_help = "Examples:\n  sudo kumquat board leave                   says what it waits for, ends when the board is out\n  sudo kumquat board leave --timeout 30m     pods that take long to end\n  sudo kumquat board leave --force           pods that no controller starts elsewhere are deleted, too\n  sudo kumquat board leave --forget          no leader answers, or none knows this board: forget the cluster\n\nInterrupted or too late (exit 3): the board is still in, run it again; or stay, with\n`kubectl uncordon NAME`. What pods keep in emptyDir volumes is gone with them. A supervisor that starts\n`kumquat up` again should be stopped first, unless the board is to join with the token of its command line.\nA board that is lost or does not answer: `kumquat board evict NAME` on a master."
    )]
    Leave {
        /// Also when pods run here that no controller starts elsewhere: they are deleted.
        #[arg(long)]
        force: bool,
        /// Forget the cluster without asking anybody; only where no leader answers this board.
        #[arg(long, conflicts_with = "force")]
        forget: bool,
        /// How long to wait: 30s, 5m, 1h.
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
        timeout: Duration,
    },
}

/// `kumquat demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Boards to show.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(super::demo::BOARDS_MAX)))]
    pub boards: u8,
    /// Verify, clean up and exit with the result instead of waiting for Ctrl-C.
    #[arg(long)]
    pub once: bool,
}

/// `kumquat promote`.
#[derive(Args, Debug)]
pub(super) struct PromoteArgs {
    /// Also when others may lead: what they take without this board is lost.
    #[arg(long)]
    pub force: bool,
}

/// `kumquat upgrade`.
#[derive(Args, Debug)]
pub(super) struct UpgradeArgs {
    /// The new binary; once for each architecture.
    #[arg(long, value_name = "FILE", required = true)]
    pub from: Vec<PathBuf>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Within which time each board must be ready with it.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub ready_within: Duration,
}

/// `kumquat repair`.
#[derive(Args, Debug)]
pub(super) struct RepairArgs {
    /// Give up everything written after this resource version.
    #[arg(long, value_name = "VERSION")]
    pub accept_loss_after: u64,
    /// The other masters are gone for good: this board leads alone, as after `kumquat promote`.
    #[arg(long)]
    pub last_copy: bool,
}

/// Reads `500ms`, `60s`, `5m`, `2h`, `7d`, or plain seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| "give a number and a unit: 60s")?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        unit => return Err(format!("unknown unit {unit:?}: use ms, s, m, h or d")),
    };
    millis.map(Duration::from_millis).ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn directories_may_stand_before_or_after() {
        for words in
            [["kumquat", "--data-dir", "/d", "version"], ["kumquat", "version", "--data-dir", "/d"]]
        {
            let cli = Cli::try_parse_from(words).expect("both orders are fine");
            assert_eq!(cli.data_dir, PathBuf::from("/d"));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("5x").is_err() && duration("").is_err());
        assert!(duration("99999999999999999999h").is_err());
    }
}
