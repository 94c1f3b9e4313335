//! Starting one container: image, environment, user, mounts, spec, keeper.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use logic::pod::spec::{Container, Pod};
use logic::pod::{Event, container_id};
use model::limits::IMAGE_USERS_BYTES_MAX;

use super::hosts::{hostname, hosts};
use super::resolv::{self, resolv_conf};
use super::{Answer, Driver, Job, blocking};
use crate::io::image::{Image, ImageStore};
use crate::io::keeper::{KeeperError, Refusal, RunStateV1, Start, StartedV1};
use crate::node::board::Board;
use crate::node::container::environment::{self, Environment};
use crate::node::container::field::BoardFacts;
use crate::node::container::spec::{self, BindMount, SpecInput};
use crate::node::container::unsupported;
use crate::node::container::user;
use crate::node::object::Objects;
use crate::node::place::PodPlaces;
use crate::node::report::Report;
use crate::node::volume;

/// Where a container writes why it ended, unless its pod says otherwise.
const TERMINATION_PATH_DEFAULT: &str = "/dev/termination-log";

impl Driver {
    pub(super) async fn start(&self, job: &Job, container: &str, attempt: u32) -> Answer {
        let Some(spec) = job.pod.container(container) else { return Answer::of(job, None) };
        let name = container.to_owned();
        let (store, image) = (self.images.clone(), spec.image.clone());
        let found = blocking(move || {
            let image = store.resolve(&image).ok()?;
            let hold = store.hold(image.digest)?;
            Some((image, hold))
        });
        let Some((image, hold)) = found.await.flatten() else {
            let reason = "ErrImagePull".to_owned();
            let message = format!("image {:?} was removed from this board", spec.image);
            let event = Event::ImageMissing { container: name, reason, message };
            return Answer::of(job, Some(event));
        };
        let prepared = self.prepare(job, container, attempt, image).await;
        let start = match prepared {
            Ok(start) => start,
            Err(Fault::Config(message)) => {
                return Answer::of(job, Some(Event::ConfigFailed { container: name, message }));
            }
            Err(Fault::Board(message)) => {
                let event = Event::StartFailed { container: name, attempt, message };
                return Answer::of(job, Some(event));
            }
        };
        match self.start_or_adopt(start).await {
            Ok(started) => {
                let at = self.clock.now();
                let event = Event::Started { container: name, attempt, at };
                let mut answer = Answer::of(job, Some(event));
                answer.reports.extend(shortcomings(&started, &job.pod, spec));
                answer.reports.extend(resolv::cut(&job.pod, self.dns, container));
                answer.hold = Some((container.to_owned(), hold));
                answer
            }
            Err(error) => {
                let message = error.to_string();
                Answer::of(job, Some(Event::StartFailed { container: name, attempt, message }))
            }
        }
    }

    /// A start whose answer was lost is found again; the remains of a failed one are removed.
    async fn start_or_adopt(&self, start: Start) -> Result<StartedV1, KeeperError> {
        let error = match self.keeper.start(start.clone()).await {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        let exists = matches!(&error, KeeperError::Refused { refusal: Refusal::AlreadyExists, .. });
        let cut = matches!(&error, KeeperError::Interrupted(_) | KeeperError::Deadline(_));
        if !exists && !cut {
            return Err(error);
        }
        let states = self.keeper.list().await?;
        match states.into_iter().find(|state| state.id == start.id) {
            Some(state) if state.state == RunStateV1::Running => {
                Ok(StartedV1 { pid: state.pid, ..StartedV1::default() })
            }
            Some(_) => {
                self.keeper.remove(&start.id).await?;
                self.keeper.start(start).await
            }
            None if cut => self.keeper.start(start).await,
            None => Err(error),
        }
    }

    async fn prepare(
        &self,
        job: &Job,
        container: &str,
        attempt: u32,
        image: Image,
    ) -> Result<Start, Fault> {
        let preparation = Preparation {
            pod: job.pod.clone(),
            container: container.to_owned(),
            attempt,
            image,
            objects: job.objects.clone(),
            places: job.places.clone(),
            board: self.board.clone(),
            qos_class: job.qos_class.clone(),
            address: job.address,
            dns: self.dns,
            api: self.api,
        };
        let interrupted = || Fault::Board("interrupted".to_owned());
        blocking(move || preparation.run()).await.ok_or_else(interrupted)?
    }
}

/// Why a start could not be prepared.
enum Fault {
    /// The pod asks for what is not there: only a change can help.
    Config(String),
    /// The board could not do it: trying again may help.
    Board(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Config(message)
    }
}

/// Everything that a start is made of; runs where it may block.
struct Preparation {
    pod: Arc<Pod>,
    container: String,
    attempt: u32,
    image: Image,
    objects: Objects,
    places: PodPlaces,
    board: Board,
    qos_class: String,
    address: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    api: Option<Ipv4Addr>,
}

impl Preparation {
    fn run(self) -> Result<Start, Fault> {
        let (pod, places) = (&self.pod, &self.places);
        let missing = || "no such container".to_owned();
        let container = pod.container(&self.container).ok_or_else(missing)?;
        unsupported::refuse(pod, container)?;
        let pod_address = self.address.map(|address| address.to_string()).unwrap_or_default();
        let facts = BoardFacts { pod_address, api_address: self.api, ..self.board.facts() };
        let environment = environment::build(pod, container, &self.objects, &facts)?;
        let config = &self.image.config;
        let users = |path: &str| -> Result<String, Fault> {
            let file = ImageStore::read_file(&self.image, path, IMAGE_USERS_BYTES_MAX);
            let bytes = file.map_err(|error| Fault::Board(error.text()))?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (passwd, group) = (users("/etc/passwd")?, users("/etc/group")?);
        let user = user::resolve(pod, container, &config.user, &passwd, &group)?;
        let id = container_id(&pod.metadata.uid, &container.name, self.attempt);
        let fault =
            |error: io::Error| Fault::Board(format!("preparing files of the container: {error}"));
        let mut mounts = self.etc_mounts().map_err(fault)?;
        mounts.push(termination_mount(container, places, &id).map_err(fault)?);
        mounts.extend(volume_mounts(pod, container, &environment, places)?);
        let hostname = hostname(pod, &self.board.name);
        let mut variables =
            environment.over_image(config.env.as_deref().unwrap_or_default(), &hostname);
        if let (Some(home), false) = (&user.home, variables.iter().any(|v| v.starts_with("HOME=")))
        {
            variables.push(format!("HOME={home}"));
        }
        let spec = spec::build(&SpecInput {
            pod,
            container,
            arguments: arguments(container, &self.image, &environment)?,
            environment: variables,
            working_dir: working_dir(container, &config.working_dir),
            user,
            mounts,
            hostname,
            qos_class: self.qos_class.clone(),
            memory_bytes: facts.memory_bytes,
        });
        let log_path = places.log(&container.name, self.attempt);
        let logs = log_path.parent().expect("a log lies in its container's directory");
        fs::create_dir_all(logs).map_err(fault)?;
        drop_old_logs(logs, self.attempt).map_err(fault)?;
        // Also a container that says nothing has started: restarts are counted by it after a reboot.
        File::options().create(true).append(true).open(&log_path).map_err(fault)?;
        let writable_dir = places.writable(&id);
        if let Some(parent) = writable_dir.parent() {
            fs::create_dir_all(parent).map_err(fault)?;
        }
        Ok(Start {
            id,
            pod_uid: pod.metadata.uid.clone(),
            lower_dirs: self.image.layers.clone(),
            writable_dir,
            spec: serde_json::to_vec(&spec).map_err(|error| error.to_string())?,
            log_path,
        })
    }

    fn etc_mounts(&self) -> io::Result<Vec<BindMount>> {
        let (pod, places, board) = (&self.pod, &self.places, &self.board.name);
        let of_board = match pod.spec.host_network {
            true => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            false => String::new(),
        };
        let address = self.address.map(IpAddr::V4);
        let files = [
            ("hosts", hosts(pod, board, address, &of_board)),
            ("hostname", format!("{}\n", hostname(pod, board))),
            ("resolv.conf", resolv_conf(pod, self.dns).text),
        ];
        fs::create_dir_all(places.etc(""))?;
        let mut mounts = Vec::new();
        for (name, text) in files {
            let path = places.etc(name);
            // Containers of the pod share it and have it open: it is made once.
            if !path.exists() {
                fs::write(&path, text)?;
            }
            mounts.push(bind(&path, &format!("/etc/{name}"), false));
        }
        Ok(mounts)
    }
}

/// What the kernel or this build does not enforce, told once per start.
fn shortcomings(started: &StartedV1, pod: &Pod, container: &Container) -> Vec<Report> {
    let mut missing = started.unenforced.clone();
    missing.extend(unsupported::not_enforced(pod, container));
    let mut reports = Vec::new();
    if !missing.is_empty() {
        let text = format!("This board does not enforce: {}", missing.join(", "));
        reports.push(Report::warning("NotEnforced", text, &container.name));
    }
    let warning = |text: &String| Report::warning("Relaxed", text.clone(), &container.name);
    reports.extend(started.warnings.iter().map(warning));
    reports
}

fn arguments(
    container: &Container,
    image: &Image,
    environment: &Environment,
) -> Result<Vec<String>, String> {
    let expand =
        |list: &[String]| list.iter().map(|arg| environment.expand(arg)).collect::<Vec<_>>();
    let (entrypoint, cmd) = (image.config.entrypoint.as_deref(), image.config.cmd.as_deref());
    let own_command = !container.command.is_empty();
    let mut arguments = match own_command {
        true => expand(&container.command),
        false => entrypoint.unwrap_or_default().to_vec(),
    };
    match (container.args.is_empty(), own_command) {
        (false, _) => arguments.extend(expand(&container.args)),
        (true, false) => arguments.extend_from_slice(cmd.unwrap_or_default()),
        (true, true) => {}
    }
    match arguments.is_empty() {
        true => Err("no command specified".to_owned()),
        false => Ok(arguments),
    }
}

fn working_dir(container: &Container, of_image: &str) -> String {
    let chosen = [container.working_dir.as_str(), of_image];
    chosen.into_iter().find(|dir| !dir.is_empty()).unwrap_or("/").to_owned()
}

fn bind(source: &Path, target: &str, read_only: bool) -> BindMount {
    BindMount {
        source: source.to_string_lossy().into_owned(),
        target: target.to_owned(),
        read_only,
        propagation: "rprivate",
    }
}

fn termination_mount(container: &Container, places: &PodPlaces, id: &str) -> io::Result<BindMount> {
    use std::os::unix::fs::PermissionsExt;
    let path = places.termination(id);
    fs::create_dir_all(places.termination(""))?;
    fs::write(&path, b"")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let target = container.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH_DEFAULT);
    Ok(bind(&path, target, false))
}

fn volume_mounts(
    pod: &Pod,
    container: &Container,
    environment: &Environment,
    places: &PodPlaces,
) -> Result<Vec<BindMount>, String> {
    let mut mounts = Vec::new();
    for mount in &container.volume_mounts {
        let sub_path = match mount.sub_path_expr.is_empty() {
            true => mount.sub_path.clone(),
            false => environment.expand(&mount.sub_path_expr),
        };
        let source = volume::mount_source(mount, &sub_path, pod, places)?;
        let volume = pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
        let read_only = mount.read_only || volume.is_some_and(volume::is_projected);
        mounts.push(BindMount {
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "rprivate",
            },
            ..bind(&source, &mount.mount_path, read_only)
        });
    }
    Ok(mounts)
}

/// `kubectl logs --previous` reaches one start back; older logs go.
fn drop_old_logs(dir: &Path, attempt: u32) -> io::Result<()> {
    for name in crate::node::place::entries(dir)? {
        let number = name.split('.').next().and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| number + 1 < attempt) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}
