//! The OCI runtime spec of a container (opencontainers/runtime-spec 1.0), without root, namespaces and
//! cgroup path, which are the keeper's.

use logic::pod::dotted;
use logic::pod::spec::{Amount, Container, Pod};
use model::quantity::Quantity;
use serde_json::{Value, json};

use super::user::User;
use crate::io::keeper::{SHARED_PROCESSES_ANNOTATION, STDIN_ANNOTATION};

/// Capabilities of a container that asks for nothing: containerd's.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities up to Linux 5.9 in the kernel's order.
const CAPABILITIES_ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Period of CPU limits, as kubelet sets it.
const CPU_PERIOD_MICROS: i64 = 100_000;

/// A bind mount from the board into the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindMount {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub(crate) propagation: &'static str,
}

/// Everything that the spec is made of.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    /// Program and arguments, expanded.
    pub(crate) arguments: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: User,
    pub(crate) mounts: Vec<BindMount>,
    pub(crate) hostname: String,
    /// `qosClass`.
    pub(crate) qos_class: String,
    /// Memory of the board, for the OOM score.
    pub(crate) memory_bytes: i64,
}

/// Builds the spec.
pub(crate) fn build(input: &SpecInput<'_>) -> Value {
    let security = &input.container.security_context;
    let privileged = security.privileged;
    let none: &[&str] = &[];
    let capabilities = capabilities(input.container);
    let User { uid, gid, groups, .. } = &input.user;
    let escalation = security.allow_privilege_escalation.unwrap_or(true) || privileged;
    json!({
        "ociVersion": "1.0.2",
        "hostname": input.hostname,
        "process": {
            "terminal": input.container.tty,
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": input.arguments,
            "env": input.environment,
            "cwd": input.working_dir,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": !escalation,
            "oomScoreAdj": oom_score(input),
        },
        "root": {"path": "rootfs", "readonly": security.read_only_root_filesystem},
        "mounts": mounts(input),
        "linux": {
            "resources": resources(input),
            "maskedPaths": if privileged { none } else { &MASKED },
            "readonlyPaths": if privileged { none } else { &READ_ONLY },
            "sysctl": sysctls(input.pod),
        },
        "annotations": {
            "io.kubernetes.pod.name": input.pod.metadata.name,
            "io.kubernetes.pod.namespace": input.pod.metadata.namespace,
            "io.kubernetes.container.name": input.container.name,
            STDIN_ANNOTATION: held_input(input.container),
            SHARED_PROCESSES_ANNOTATION: input.pod.spec.share_process_namespace.to_string(),
        },
    })
}

/// How the container's input is held open, for the keeper.
fn held_input(container: &Container) -> &'static str {
    match (container.stdin, container.stdin_once) {
        (false, _) => "",
        (true, true) => "once",
        (true, false) => "open",
    }
}

fn sysctls(pod: &Pod) -> Value {
    let sysctls = &pod.spec.security_context.sysctls;
    sysctls.iter().map(|sysctl| (dotted(&sysctl.name), json!(sysctl.value))).collect()
}

/// Whether a name, with or without `CAP_`, is that of a capability, or `ALL`.
pub(crate) fn is_capability(name: &str) -> bool {
    let long = format!("CAP_{name}");
    let known =
        |known: &&str| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(&long);
    name == "ALL" || CAPABILITIES_ALL.iter().any(known)
}

fn capabilities(container: &Container) -> Vec<&'static str> {
    let security = &container.security_context;
    if security.privileged {
        return CAPABILITIES_ALL.to_vec();
    }
    let named = |list: &[String], name: &str| {
        let short = &name["CAP_".len()..];
        list.iter().any(|asked| {
            asked == "ALL" || asked.eq_ignore_ascii_case(short) || asked.eq_ignore_ascii_case(name)
        })
    };
    let asked = &security.capabilities;
    // "add" wins over "drop: ALL", as in every runtime.
    let exactly = |list: &[String], name: &str| {
        let single: Vec<String> = list.iter().filter(|a| *a != "ALL").cloned().collect();
        named(&single, name)
    };
    CAPABILITIES_ALL
        .into_iter()
        .filter(|name| {
            let kept = CAPABILITIES.contains(name) && !named(&asked.drop, name);
            let added = named(&asked.add, name) && !exactly(&asked.drop, name);
            kept || added
        })
        .collect()
}

/// kubelet `qos.GetContainerOOMScoreAdjust`; a score below zero needs a privilege that a board may
/// lack, so guaranteed pods get the score of an ordinary process.
fn oom_score(input: &SpecInput<'_>) -> i64 {
    match input.qos_class.as_str() {
        "Guaranteed" => 0,
        "BestEffort" => 1_000,
        _ => {
            let request = bytes(input.container.resources.requests.get("memory")).unwrap_or(0);
            let capacity = input.memory_bytes.max(1);
            let share = (i128::from(request) * 1_000 / i128::from(capacity)).clamp(0, 1_000);
            (1_000 - i64::try_from(share).unwrap_or(1_000)).clamp(3, 999)
        }
    }
}

fn bytes(amount: Option<&Amount>) -> Option<i64> {
    Some(Quantity::parse(&amount?.text()).ok()?.value())
}

fn millis(amount: Option<&Amount>) -> Option<i64> {
    Some(Quantity::parse(&amount?.text()).ok()?.milli_value())
}

fn resources(input: &SpecInput<'_>) -> Value {
    let resources = &input.container.resources;
    let allow = input.container.security_context.privileged;
    let mut value = json!({"devices": [{"allow": allow, "access": "rwm"}]});
    if let Some(limit) = bytes(resources.limits.get("memory")).filter(|limit| *limit > 0) {
        value["memory"] = json!({ "limit": limit });
    }
    let limit = millis(resources.limits.get("cpu")).filter(|limit| *limit > 0);
    let request = millis(resources.requests.get("cpu")).or(limit).unwrap_or(0);
    // cgroup v1 words; the runtime translates them to weight and max on v2.
    let mut cpu = json!({"shares": (request * 1_024 / 1_000).clamp(2, 262_144)});
    if let Some(limit) = limit {
        cpu["quota"] = json!((limit * CPU_PERIOD_MICROS / 1_000).max(1_000));
        cpu["period"] = json!(CPU_PERIOD_MICROS);
    }
    value["cpu"] = cpu;
    value
}

fn mounts(input: &SpecInput<'_>) -> Vec<Value> {
    let privileged = input.container.security_context.privileged;
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let guarded: &[&str] = match privileged {
        true => &["nosuid", "noexec", "nodev"],
        false => &["nosuid", "noexec", "nodev", "ro"],
    };
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", guarded),
        mount("/sys/fs/cgroup", "cgroup", guarded),
    ];
    let own_shm = input.mounts.iter().any(|bind| bind.target == "/dev/shm");
    if !own_shm {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        mounts.push(mount("/dev/shm", "tmpfs", &options));
    }
    // Outer targets first, or they would hide the inner ones.
    let mut binds: Vec<&BindMount> = input.mounts.iter().collect();
    binds.sort_by_key(|bind| bind.target.matches('/').count());
    mounts.extend(binds.into_iter().map(|bind| {
        let access = if bind.read_only { "ro" } else { "rw" };
        json!({
            "destination": bind.target,
            "type": "bind",
            "source": bind.source,
            "options": ["rbind", bind.propagation, access],
        })
    }));
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec_of(container: &str, qos_class: &str) -> Value {
        let json =
            format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{container}]}}}}"#);
        let pod = Pod::parse(json.as_bytes()).expect("a pod");
        build(&SpecInput {
            pod: &pod,
            container: &pod.spec.containers[0],
            arguments: vec!["sh".to_owned()],
            environment: Vec::new(),
            working_dir: "/".to_owned(),
            user: User::default(),
            mounts: Vec::new(),
            hostname: "p".to_owned(),
            qos_class: qos_class.to_owned(),
            memory_bytes: 1 << 30,
        })
    }

    #[test]
    fn limits_become_cgroup_values() {
        let container = r#"{"name":"c","resources":{"limits":{"cpu":"500m","memory":"64Mi"},
            "requests":{"cpu":"250m","memory":"512Mi"}}}"#;
        let spec = spec_of(container, "Burstable");
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["memory"]["limit"], 64 << 20);
        assert_eq!(resources["cpu"], json!({"shares": 256, "quota": 50_000, "period": 100_000}));
        assert_eq!(spec["process"]["oomScoreAdj"], 500);
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        let only = |names: &[&str], capabilities: &str| {
            let container =
                format!(r#"{{"name":"c","securityContext":{{"capabilities":{capabilities}}}}}"#);
            assert_eq!(
                spec_of(&container, "")["process"]["capabilities"]["bounding"],
                json!(names)
            );
        };
        only(&["CAP_NET_ADMIN"], r#"{"drop":["ALL"],"add":["NET_ADMIN"]}"#);
        only(&[], r#"{"drop":["ALL"]}"#);
        only(&["CAP_KILL"], r#"{"drop":["ALL"],"add":["CAP_KILL"]}"#);
        only(&CAPABILITIES_ALL, r#"{"add":["ALL"]}"#);
    }

    #[test]
    fn privilege_opens_what_is_closed() {
        let spec = spec_of(r#"{"name":"c","securityContext":{"privileged":true}}"#, "");
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        let spec = spec_of(
            r#"{"name":"c","securityContext":{"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true}}"#,
            "",
        );
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
    }
}
