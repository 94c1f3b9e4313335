//! What a pod asks for and this board does not do: one list. What its safety rests on is refused at the
//! start with a plain sentence; the rest is reported as an event.

use logic::pod::Pod;
use logic::pod::spec::Container;

use super::spec::is_capability;

/// Refuses what would be less safe or fail for ever if it were ignored.
///
/// # Errors
/// The sentence that the waiting container shows.
pub(crate) fn refuse(pod: &Pod, container: &Container) -> Result<(), String> {
    let (spec, of_pod) = (&pod.spec, &pod.spec.security_context);
    let own = &container.security_context;
    let seccomp = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let app_armor = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    let table = [
        ("hostPID", spec.host_pid),
        ("hostUsers: false", spec.host_users == Some(false)),
        ("runtimeClassName", spec.runtime_class_name.as_ref().is_some_and(|name| !name.is_empty())),
        ("seLinuxOptions", own.se_linux_options.is_some() || of_pod.se_linux_options.is_some()),
        (
            "a procMount other than Default",
            !matches!(own.proc_mount.as_deref(), None | Some("Default")),
        ),
        ("a seccomp profile of type Localhost", seccomp.is_some_and(|p| p.r#type == "Localhost")),
        (
            "an AppArmor profile of type Localhost",
            app_armor.is_some_and(|p| p.r#type == "Localhost"),
        ),
        ("volumeDevices", !container.volume_devices.is_empty()),
    ];
    if let Some((what, _)) = table.iter().find(|(_, asked)| *asked) {
        return Err(format!("{what} is not supported on this board"));
    }
    let asked = &own.capabilities;
    if let Some(name) = asked.add.iter().chain(&asked.drop).find(|name| !is_capability(name)) {
        return Err(format!("unknown capability {name:?}"));
    }
    Ok(())
}

/// What is not enforced or done, in words for one event.
pub(crate) fn not_enforced(pod: &Pod, container: &Container) -> Vec<String> {
    let (own, of_pod) = (&container.security_context, &pod.spec.security_context);
    let by_runtime = |own: &Option<_>, of_pod: &Option<_>| {
        let profile: Option<&logic::pod::spec::SeccompProfile> = own.as_ref().or(of_pod.as_ref());
        profile.is_some_and(|profile| profile.r#type == "RuntimeDefault")
    };
    let mut missing = Vec::new();
    if by_runtime(&own.seccomp_profile, &of_pod.seccomp_profile) {
        missing.push("seccomp".to_owned());
    }
    if by_runtime(&own.app_armor_profile, &of_pod.app_armor_profile) {
        missing.push("AppArmor".to_owned());
    }
    if container.ports.iter().any(|port| port.host_port > 0) && !pod.spec.host_network {
        missing.push("hostPort".to_owned());
    }
    let mounted = |name: &str| container.volume_mounts.iter().any(|mount| mount.name == name);
    let unbounded = pod.spec.volumes.iter().filter(|volume| {
        let bound = |dir: &logic::pod::spec::EmptyDir| {
            dir.size_limit.is_some() && !dir.medium.starts_with("Memory")
        };
        mounted(&volume.name) && volume.empty_dir.as_ref().is_some_and(bound)
    });
    missing.extend(unbounded.map(|volume| format!("sizeLimit of emptyDir {}", volume.name)));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, mut container: Value) -> Pod {
        container["name"] = "c".into();
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        pod["spec"]["containers"] = json!([container]);
        Pod::parse(pod.to_string().as_bytes()).expect("a pod")
    }

    fn check(spec: Value, container: Value, expected: Option<&str>) {
        let pod = pod(spec, container);
        let refused = refuse(&pod, &pod.spec.containers[0]).err();
        assert_eq!(refused.is_some(), expected.is_some(), "{refused:?}");
        if let (Some(text), Some(word)) = (refused, expected) {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn what_safety_rests_on_is_refused() {
        let plain = || json!({});
        let secure = |context: Value| json!({"securityContext": context});
        check(plain(), plain(), None);
        check(json!({"hostPID": true}), plain(), Some("hostPID"));
        check(json!({"hostUsers": true}), plain(), None);
        check(json!({"hostUsers": false}), plain(), Some("hostUsers"));
        check(json!({"shareProcessNamespace": true}), plain(), None);
        check(json!({"runtimeClassName": "kata"}), plain(), Some("runtimeClassName"));
        check(plain(), secure(json!({"procMount": "Unmasked"})), Some("procMount"));
        check(plain(), secure(json!({"procMount": "Default"})), None);
        check(plain(), secure(json!({"seLinuxOptions": {"level": "s0"}})), Some("seLinux"));
        for kind in ["seccompProfile", "appArmorProfile"] {
            check(plain(), secure(json!({kind: {"type": "Localhost"}})), Some("Localhost"));
            check(plain(), secure(json!({kind: {"type": "RuntimeDefault"}})), None);
            check(plain(), secure(json!({kind: {"type": "Unconfined"}})), None);
        }
        check(plain(), secure(json!({"capabilities": {"add": ["NET_ADMN"]}})), Some("NET_ADMN"));
        check(
            plain(),
            secure(json!({"capabilities": {"drop": ["ALL"], "add": ["cap_kill"]}})),
            None,
        );
        check(plain(), json!({"volumeDevices": [{"name": "d"}]}), Some("volumeDevices"));
    }

    #[test]
    fn the_rest_is_reported() {
        let pod = pod(
            json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
                "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            json!({"ports": [{"containerPort": 80, "hostPort": 80}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]}),
        );
        let missing = not_enforced(&pod, &pod.spec.containers[0]);
        assert_eq!(missing, ["AppArmor", "hostPort", "sizeLimit of emptyDir v"]);
    }
}
