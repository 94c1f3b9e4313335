//! The starter: makes a container in a fork of the holder and lets it go.
//!
//! ```text
//! spec from the client ─> bundle, FIFOs ─> private mount namespace, overlay
//!   ─> libcontainer create, init as a child of the holder ─> record on disk
//!   ─> pid to the holder, which watches it and has its output pumped ─> go ─> start ─> answer
//! ```
//! The program begins only after the holder knows about it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use model::limits::CONTAINER_OPEN_FILES;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, mkfifo};
use serde_json::Value;

use super::console::{self, Console};
use super::spec::{Relaxed, Surroundings};
use super::{Failure, Site, answer, overlay, remove};
use crate::io::keeper::cgroup::Hierarchies;
use crate::io::keeper::paths::SHARED_PROCESSES_ANNOTATION;
use crate::io::keeper::process::{
    PidFd, default_signals, ignore_sigpipe, now_micros, start_ticks_of,
};
use crate::io::keeper::pump::Output;
use crate::io::keeper::record::RecordV1;
use crate::io::keeper::wire::{self, Refusal, ResponseV1, StartHeaderV1, StartedV1};

/// Runs in a fork of the holder. `report` takes the init process's pid to the holder and brings back
/// a byte when the program may begin.
pub(in crate::io::keeper) fn run(
    site: &Site,
    header: &StartHeaderV1,
    mut stream: UnixStream,
    report: UnixStream,
) -> u8 {
    let outcome = start(site, header, &mut stream, report);
    if outcome.as_ref().is_err_and(|failure| failure.refusal != Refusal::AlreadyExists) {
        overlay::unmount_rootfs(&site.layout.container(&header.id));
        let record = begun(header);
        if let Err(error) = remove::clean(site, &header.id, Some(&record)) {
            eprintln!("starter of {}: {error}", header.id);
        }
    }
    answer(&mut stream, outcome)
}

fn start(
    site: &Site,
    header: &StartHeaderV1,
    stream: &mut UnixStream,
    mut report: UnixStream,
) -> Result<ResponseV1, Failure> {
    let spec = wire::read_raw(stream)?;
    let mut spec: Value = serde_json::from_slice(&spec)
        .map_err(|error| Failure::new(Refusal::Invalid, format!("reading the spec: {error}")))?;
    let bundle = site.layout.container(&header.id);
    match fs::DirBuilder::new().mode(0o700).create(&bundle) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = format!("container {} exists already", header.id);
            return Err(Failure::new(Refusal::AlreadyExists, text));
        }
        made => made?,
    }
    begun(header).write_begun(&bundle)?;
    let mut relaxed = fit(site, header, &mut spec)?;
    let outputs = make_outputs(&bundle, &spec)?;
    // Before the score and the mounts, which are the container's.
    let console = console::start(&bundle, &mut spec, &outputs[0])?;
    set_oom_score(&mut spec, &mut relaxed);
    overlay::enter_private_namespace()?;
    overlay::mount_rootfs(&bundle, &header.lower_dirs, &header.writable_dir)?;
    write_private(&bundle.join("config.json"), spec.to_string().as_bytes())?;
    drop(spec);
    let mut container = create(site, &header.id, outputs, console.as_ref())?;
    let pid = container.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok());
    let pid = pid.ok_or_else(|| Failure::new(Refusal::Failed, "the container has no process"))?;
    let released = record(header, &bundle, pid)
        .and_then(|()| report.write_all(&pid.to_le_bytes()))
        .and_then(|()| report.read_exact(&mut [0]));
    let started = match released {
        Ok(()) => container.start().map_err(|error| Failure::failed("starting", &error)),
        Err(error) => Err(Failure::failed("the keeper's holder went away", &error)),
    };
    if let Err(failure) = started {
        if let Ok(process) = PidFd::open(pid) {
            process.signal(libc::SIGKILL)?;
            process.wait(5000);
        }
        return Err(failure);
    }
    let Relaxed { unenforced, warnings } = relaxed;
    Ok(ResponseV1::Started(StartedV1 { pid, unenforced, warnings }))
}

fn begun(header: &StartHeaderV1) -> RecordV1 {
    RecordV1 {
        id: header.id.clone(),
        pod_uid: header.pod_uid.clone(),
        pid: 0,
        start_ticks: 0,
        started_at_micros: 0,
        writable_dir: header.writable_dir.clone(),
        log_path: header.log_path.clone(),
    }
}

fn record(header: &StartHeaderV1, bundle: &Path, pid: u32) -> io::Result<()> {
    let gone = || io::Error::other("the container's process is gone");
    let record = RecordV1 {
        pid,
        start_ticks: start_ticks_of(pid).ok_or_else(gone)?,
        started_at_micros: now_micros(),
        ..begun(header)
    };
    record.write(bundle)
}

fn fit(site: &Site, header: &StartHeaderV1, spec: &mut Value) -> Result<Relaxed, Failure> {
    let sandbox = site.layout.sandbox(&header.pod_uid);
    if !sandbox.join("ready").exists() {
        let text = format!("pod {} has no sandbox", header.pod_uid);
        return Err(Failure::new(Refusal::NotFound, text));
    }
    let mut join = Vec::new();
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let path = sandbox.join(file);
        if path.exists() {
            join.push((kind, path.to_string_lossy().into_owned()));
        }
    }
    if spec["annotations"][SHARED_PROCESSES_ANNOTATION] == "true" {
        let pin = super::pause::process_namespace(site, &header.pod_uid)?;
        join.push(("pid", pin.to_string_lossy().into_owned()));
    }
    let hierarchies = Hierarchies::detect()?;
    let cgroup = site.container_cgroup(&header.pod_uid, &header.id);
    let may_raise = has_capability(CAP_SYS_RESOURCE);
    let surroundings = Surroundings {
        cgroup_path: format!("/{}", cgroup.display()),
        join,
        unified: hierarchies.is_unified(),
        has_controller: &|controller| hierarchies.has(controller),
        open_files: hard_limit("RLIMIT_NOFILE").unwrap_or(CONTAINER_OPEN_FILES),
        hard_limit: &|kind| if may_raise { None } else { hard_limit(kind) },
    };
    super::spec::fit(spec, &surroundings).map_err(|text| Failure::new(Refusal::Invalid, text))
}

/// Number of the capability that raises limits (capability(7)).
const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

fn hard_limit(kind: &str) -> Option<u64> {
    let resource = match kind {
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        _ => return None,
    };
    getrlimit(resource).ok().map(|(_, hard)| hard)
}

/// Sets the score that the container inherits, here, where a refusal can be told.
fn set_oom_score(spec: &mut Value, relaxed: &mut Relaxed) {
    let asked = spec["process"].get("oomScoreAdj").and_then(Value::as_i64);
    if let Some(process) = spec["process"].as_object_mut() {
        process.remove("oomScoreAdj");
    }
    let score = asked.unwrap_or(0);
    if fs::write("/proc/self/oom_score_adj", score.to_string()).is_err() && asked.is_some() {
        relaxed
            .warnings
            .push(format!("the OOM score stays above {score}: kumquat lacks CAP_SYS_RESOURCE"));
    }
}

/// Makes the two FIFOs and opens them the way that the container gets them: for reading and writing,
/// so that it is never without a reader.
fn make_outputs(bundle: &Path, spec: &Value) -> io::Result<[File; 2]> {
    let id = |name: &str| {
        let value = spec["process"]["user"].get(name).and_then(Value::as_u64);
        value.and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
    };
    let (uid, gid) = (Uid::from_raw(id("uid")), Gid::from_raw(id("gid")));
    let open = |output: Output| {
        let path = bundle.join(output.name());
        mkfifo(&path, Mode::from_bits_truncate(0o600))?;
        // Programs reopen /dev/stdout as their own user.
        nix::unistd::chown(&path, Some(uid), Some(gid))?;
        File::options().read(true).write(true).open(path)
    };
    Ok([open(Output::Stdout)?, open(Output::Stderr)?])
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().create_new(true).write(true).mode(0o600).open(path)?.write_all(bytes)
}

fn create(
    site: &Site,
    id: &str,
    outputs: [File; 2],
    console: Option<&Console>,
) -> Result<Container, Failure> {
    let [stdout, stderr] = outputs;
    let stdin = console.and_then(|console| console.stdin.as_ref());
    let stdin = stdin.map(OwnedFd::try_clone).transpose()?;
    let terminal = console.and_then(|console| console.terminal.clone());
    default_signals();
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(site.layout.runtime())
        .map(|builder| {
            let builder = stdin.into_iter().fold(builder, ContainerBuilder::with_stdin);
            builder
                .with_stdout(OwnedFd::from(stdout))
                .with_stderr(OwnedFd::from(stderr))
                .with_console_socket(terminal)
        })
        .and_then(|builder| {
            builder
                .as_init(site.layout.container(id))
                .with_systemd(false)
                .as_sibling(true)
                .with_detach(true)
                .build()
        });
    ignore_sigpipe();
    container.map_err(|error| Failure::failed("creating the container", &error))
}
