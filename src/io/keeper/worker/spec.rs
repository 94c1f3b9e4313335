//! Fits a container's OCI spec to this board: where it lives, what the kernel can enforce. Pure.
//!
//! What cannot be enforced is taken out and named, so that the caller can say so to a person; it is
//! never ignored in silence.

use model::limits::CONTAINER_OPEN_FILES;
use serde_json::{Map, Value, json};

/// What a spec is fitted to.
pub(super) struct Surroundings<'a> {
    /// The container's cgroup, absolute below the hierarchies' roots.
    pub(super) cgroup_path: String,
    /// Namespaces to join: OCI type and file.
    pub(super) join: Vec<(&'static str, String)>,
    /// Whether limits are set through cgroup version 2.
    pub(super) unified: bool,
    /// Whether a controller is there.
    pub(super) has_controller: &'a dyn Fn(&str) -> bool,
    /// This process' own hard limit of open files.
    pub(super) open_files: u64,
    /// Highest limit that may be set: none when limits can be raised at will.
    pub(super) hard_limit: &'a dyn Fn(&str) -> Option<u64>,
}

/// What had to be left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relaxed {
    pub(super) unenforced: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A part of `linux.resources` and its controller in version 1 and 2.
const LIMITS: [(&str, &str, &str); 5] = [
    ("memory", "memory", "memory"),
    ("cpu", "cpu", "cpu"),
    ("pids", "pids", "pids"),
    ("blockIO", "blkio", "io"),
    ("hugepageLimits", "hugetlb", "hugetlb"),
];

/// Fits `spec` to its surroundings.
pub(super) fn fit(spec: &mut Value, surroundings: &Surroundings<'_>) -> Result<Relaxed, String> {
    let mut relaxed = Relaxed::default();
    let spec = spec.as_object_mut().ok_or("the spec is not an object")?;
    spec.entry("ociVersion").or_insert_with(|| json!("1.0.2"));
    let read_only = spec.get("root").and_then(|root| root.get("readonly")).cloned();
    spec.insert(
        "root".to_owned(),
        json!({"path": "rootfs", "readonly": read_only.unwrap_or(Value::Bool(false))}),
    );
    let process = spec.get_mut("process").and_then(Value::as_object_mut);
    let process = process.ok_or("the spec has no process")?;
    fit_rlimits(process, surroundings, &mut relaxed);
    let linux = spec.entry("linux").or_insert_with(|| json!({}));
    let linux = linux.as_object_mut().ok_or("the spec's linux part is not an object")?;
    fit_linux(linux, surroundings, &mut relaxed);
    Ok(relaxed)
}

fn fit_linux(linux: &mut Map<String, Value>, around: &Surroundings<'_>, relaxed: &mut Relaxed) {
    let mut namespaces = vec![json!({"type": "mount"})];
    if around.join.iter().all(|(kind, _)| *kind != "pid") {
        namespaces.insert(0, json!({"type": "pid"}));
    }
    if around.unified {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces.extend(around.join.iter().map(|(kind, path)| json!({"type": kind, "path": path})));
    linux.insert("namespaces".to_owned(), Value::Array(namespaces));
    linux.insert("cgroupsPath".to_owned(), Value::String(around.cgroup_path.clone()));
    if linux.remove("seccomp").is_some() {
        relaxed.unenforced.push("seccomp".to_owned());
    }
    let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) else { return };
    for (part, v1, v2) in LIMITS {
        let controller = if around.unified { v2 } else { v1 };
        if resources.contains_key(part) && !(around.has_controller)(controller) {
            resources.remove(part);
            relaxed.unenforced.push(controller.to_owned());
        }
    }
    let cpuset = |cpu: &Value| cpu.get("cpus").is_some() || cpu.get("mems").is_some();
    if resources.get("cpu").is_some_and(cpuset)
        && !(around.has_controller)("cpuset")
        && let Some(cpu) = resources.get_mut("cpu").and_then(Value::as_object_mut)
    {
        cpu.remove("cpus");
        cpu.remove("mems");
        relaxed.unenforced.push("cpuset".to_owned());
    }
    // Version 2 filters devices by a BPF program that libcontainer does not load without libbpf.
    let denies = |rule: &Value| rule.get("allow") == Some(&Value::Bool(false));
    let devices = resources.get("devices").and_then(Value::as_array);
    if around.unified && devices.is_some_and(|rules| rules.iter().any(denies)) {
        relaxed.unenforced.push("devices".to_owned());
    }
}

fn fit_rlimits(process: &mut Map<String, Value>, around: &Surroundings<'_>, relaxed: &mut Relaxed) {
    let limits = process.entry("rlimits").or_insert_with(|| json!([]));
    let Some(limits) = limits.as_array_mut() else { return };
    if !limits.iter().any(|limit| limit["type"] == "RLIMIT_NOFILE") {
        // Else a container would get the limit that the board has raised for itself, and programs
        // that use select(2) or walk all descriptors would fail or crawl.
        let hard = around.open_files;
        let soft = CONTAINER_OPEN_FILES.min(hard);
        limits.push(json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard }));
    }
    for limit in limits {
        let Some(kind) = limit.get("type").and_then(Value::as_str).map(str::to_owned) else {
            continue;
        };
        let Some(highest) = (around.hard_limit)(&kind) else { continue };
        let asked = limit.get("hard").and_then(Value::as_u64).unwrap_or(0);
        if asked > highest {
            relaxed.warnings.push(format!(
                "{kind} stays at {highest} instead of {asked}: kumquat lacks CAP_SYS_RESOURCE"
            ));
            for bound in ["hard", "soft"] {
                let value = limit.get(bound).and_then(Value::as_u64).unwrap_or(0).min(highest);
                limit[bound] = json!(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(unified: bool, missing: &str, mut spec: Value) -> (Value, Relaxed) {
        let surroundings = Surroundings {
            cgroup_path: "/kumquat-a-b/pod/c".to_owned(),
            join: vec![("network", "/r/net".to_owned())],
            unified,
            has_controller: &|controller| controller != missing,
            open_files: 4096,
            hard_limit: &|kind| (kind == "RLIMIT_NOFILE").then_some(100),
        };
        let relaxed = fit(&mut spec, &surroundings).expect("a spec");
        (spec, relaxed)
    }

    fn limited() -> Value {
        json!({
            "process": {"rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 1000, "soft": 50},
                {"type": "RLIMIT_CORE", "hard": 1000, "soft": 1000},
            ]},
            "root": {"path": "/elsewhere", "readonly": true},
            "linux": {
                "namespaces": [{"type": "user"}],
                "seccomp": {},
                "resources": {
                    "memory": {"limit": 1}, "cpu": {"shares": 2, "cpus": "0"},
                    "devices": [{"allow": false}],
                },
            },
        })
    }

    #[test]
    fn place_and_namespaces_are_the_keepers() {
        let (spec, _) = fitted(false, "", limited());
        assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
        assert_eq!(spec["linux"]["cgroupsPath"], "/kumquat-a-b/pod/c");
        assert_eq!(
            spec["linux"]["namespaces"],
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/r/net"}])
        );
        let (spec, _) = fitted(true, "", limited());
        assert_eq!(spec["linux"]["namespaces"][2], json!({"type": "cgroup"}));
    }

    #[test]
    fn what_is_not_enforced_is_named() {
        let check = |unified, missing, expected: &[&str]| {
            let (spec, relaxed) = fitted(unified, missing, limited());
            assert_eq!(relaxed.unenforced, expected, "{unified} {missing}");
            let memory = spec["linux"]["resources"].get("memory");
            assert_eq!(memory.is_some(), missing != "memory");
        };
        check(false, "", &["seccomp"]);
        check(false, "memory", &["seccomp", "memory"]);
        check(true, "", &["seccomp", "devices"]);
        check(true, "cpuset", &["seccomp", "cpuset", "devices"]);
    }

    #[test]
    fn limits_that_cannot_be_raised_are_lowered_and_told() {
        let (spec, relaxed) = fitted(false, "", limited());
        let limits = &spec["process"]["rlimits"];
        assert_eq!(limits[0], json!({"type": "RLIMIT_NOFILE", "hard": 100, "soft": 50}));
        assert_eq!(limits[1]["hard"], 1000);
        assert_eq!(relaxed.warnings.len(), 1);
    }

    #[test]
    fn a_container_does_not_inherit_the_boards_own_limit_of_open_files() {
        let (spec, _) = fitted(true, "", json!({ "process": {} }));
        let limit = json!([{ "type": "RLIMIT_NOFILE", "hard": 100, "soft": 100 }]);
        assert_eq!(spec["process"]["rlimits"], limit, "bounded by what may be set");
        let surroundings = Surroundings {
            cgroup_path: String::new(),
            join: vec![],
            unified: true,
            has_controller: &|_| true,
            open_files: 4096,
            hard_limit: &|_| None,
        };
        let mut spec = json!({ "process": {} });
        fit(&mut spec, &surroundings).expect("a spec");
        assert_eq!(spec["process"]["rlimits"][0]["soft"], CONTAINER_OPEN_FILES);
        assert_eq!(spec["process"]["rlimits"][0]["hard"], 4096);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [json!(3), json!({}), json!({"process": {}, "linux": 4})] {
            let surroundings = Surroundings {
                cgroup_path: String::new(),
                join: vec![],
                unified: false,
                has_controller: &|_| true,
                open_files: 512,
                hard_limit: &|_| None,
            };
            assert!(fit(&mut bad.clone(), &surroundings).is_err(), "{bad}");
        }
    }
}
