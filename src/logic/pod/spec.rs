//! The parts of a Pod that a board acts on, as types.
//!
//! Read from the API's JSON once per change; unknown fields are not kept here because the status
//! goes back apart from the spec.

use std::collections::BTreeMap;

use model::ids::Uid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("pod cannot be read")]
pub struct PodError(#[source] serde_json::Error);

/// A pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pod {
    /// Names, labels, deletion.
    pub metadata: Metadata,
    /// What to run.
    pub spec: PodSpec,
    /// What the control plane wrote before the board took over.
    #[serde(default)]
    pub status: PodSeed,
    /// Why spec and status could not be read, and are empty.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl Pod {
    /// Reads a pod as the API writes it; explicit nulls count as absent.
    ///
    /// # Errors
    /// When it is no JSON or a field has another type than the API gives it.
    pub fn parse(json: &[u8]) -> Result<Self, PodError> {
        let mut value: Value = serde_json::from_slice(json).map_err(PodError)?;
        drop_nulls(&mut value);
        serde_json::from_value(value).map_err(PodError)
    }

    /// What can be said of a pod that [`Self::parse`] refuses: its name, and whether it is to go.
    pub fn unreadable(json: &[u8], uid: Uid, cause: String) -> Self {
        let value: Value = serde_json::from_slice(json).unwrap_or_default();
        let text = |name: &str| value["metadata"][name].as_str().map(str::to_owned);
        let metadata = Metadata {
            name: text("name").unwrap_or_default(),
            namespace: text("namespace").unwrap_or_default(),
            uid: uid.to_string(),
            deletion_timestamp: text("deletionTimestamp"),
            ..Metadata::default()
        };
        let (spec, status) = Default::default();
        Self { metadata, spec, status, unreadable: Some(cause) }
    }

    /// The uid; all zero when the API gave none.
    pub fn uid(&self) -> Uid {
        Uid::parse(&self.metadata.uid).unwrap_or_default()
    }

    /// `name_namespace(uid)`, as kubelet writes it in messages.
    pub fn full_name(&self) -> String {
        let Metadata { name, namespace, uid, .. } = &self.metadata;
        format!("{name}_{namespace}({uid})")
    }

    /// Init containers, then containers.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }

    /// A container by name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers().find(|container| container.name == name)
    }

    /// Seconds that its containers get to stop.
    pub fn grace_seconds(&self) -> u32 {
        let asked = self.metadata.deletion_grace_period_seconds;
        let seconds = asked.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
    }

    /// The same in milliseconds.
    pub fn grace_millis(&self) -> u64 {
        u64::from(self.grace_seconds()) * 1_000
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

macro_rules! api_type {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "fields are those of the Kubernetes API")]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

api_type! {
    /// ObjectMeta.
    Metadata {
        name: String, namespace: String, uid: String,
        generation: i64,
        labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>,
        deletion_timestamp: Option<String>, deletion_grace_period_seconds: Option<i64>,
    }
}
api_type! {
    /// What of PodStatus the board takes over.
    PodSeed {
        qos_class: Option<String>, conditions: Vec<ConditionSeed>, start_time: Option<String>,
    }
}
api_type! {
    /// A condition that somebody else wrote.
    ConditionSeed { r#type: String, status: String, last_transition_time: Option<String>, }
}
api_type! {
    /// PodSpec.
    PodSpec {
        containers: Vec<Container>, init_containers: Vec<Container>, volumes: Vec<Volume>,
        restart_policy: RestartPolicy, termination_grace_period_seconds: Option<i64>,
        node_name: String, hostname: Option<String>, subdomain: Option<String>,
        #[serde(rename = "setHostnameAsFQDN")] set_hostname_as_fqdn: bool,
        service_account_name: Option<String>,
        host_network: bool, share_process_namespace: bool, host_users: Option<bool>,
        #[serde(rename = "hostPID")] host_pid: bool,
        #[serde(rename = "hostIPC")] host_ipc: bool,
        runtime_class_name: Option<String>,
        security_context: PodSecurityContext, host_aliases: Vec<HostAlias>,
        dns_policy: String, dns_config: DnsConfig, active_deadline_seconds: Option<i64>,
        readiness_gates: Vec<ReadinessGate>,
    }
}
api_type! { /// PodReadinessGate.
    ReadinessGate { condition_type: String, }
}
api_type! { /// HostAlias.
    HostAlias { ip: String, hostnames: Vec<String>, }
}
api_type! { /// PodDNSConfig.
    DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<DnsOption>, }
}
api_type! { /// PodDNSConfigOption.
    DnsOption { name: String, value: Option<String>, }
}
api_type! {
    /// PodSecurityContext.
    PodSecurityContext {
        run_as_user: Option<u32>, run_as_group: Option<u32>, run_as_non_root: Option<bool>,
        supplemental_groups: Vec<u32>, fs_group: Option<u32>, sysctls: Vec<Sysctl>,
        seccomp_profile: Option<SeccompProfile>, app_armor_profile: Option<SeccompProfile>,
        se_linux_options: Option<Value>,
    }
}
api_type! { /// SeccompProfile and AppArmorProfile.
    SeccompProfile { r#type: String, }
}
api_type! { /// Sysctl.
    Sysctl { name: String, value: String, }
}
api_type! {
    /// Container.
    Container {
        name: String, image: String, image_pull_policy: PullPolicy,
        command: Vec<String>, args: Vec<String>, working_dir: String,
        env: Vec<EnvVar>, env_from: Vec<EnvFrom>, ports: Vec<ContainerPort>,
        resources: Resources, volume_mounts: Vec<VolumeMount>,
        liveness_probe: Option<Probe>, readiness_probe: Option<Probe>, startup_probe: Option<Probe>,
        lifecycle: Lifecycle, security_context: SecurityContext, volume_devices: Vec<Value>,
        restart_policy: Option<RestartPolicy>,
        termination_message_path: Option<String>, termination_message_policy: Option<String>,
        tty: bool, stdin: bool, stdin_once: bool,
    }
}
api_type! { /// ContainerPort.
    ContainerPort {
        name: String, container_port: u16, host_port: u16, protocol: Option<String>,
        #[serde(rename = "hostIP")] host_ip: String,
    }
}
api_type! { /// ResourceRequirements.
    Resources { limits: BTreeMap<String, Amount>, requests: BTreeMap<String, Amount>, }
}
api_type! {
    /// SecurityContext.
    SecurityContext {
        run_as_user: Option<u32>, run_as_group: Option<u32>, run_as_non_root: Option<bool>,
        privileged: bool, read_only_root_filesystem: bool, allow_privilege_escalation: Option<bool>,
        capabilities: Capabilities, seccomp_profile: Option<SeccompProfile>,
        app_armor_profile: Option<SeccompProfile>, se_linux_options: Option<Value>,
        proc_mount: Option<String>,
    }
}
api_type! { /// Capabilities.
    Capabilities { add: Vec<String>, drop: Vec<String>, }
}
api_type! { /// EnvVar.
    EnvVar { name: String, value: String, value_from: Option<EnvSource>, }
}
api_type! {
    /// EnvVarSource.
    EnvSource {
        field_ref: Option<FieldRef>, resource_field_ref: Option<ResourceFieldRef>,
        config_map_key_ref: Option<KeyRef>, secret_key_ref: Option<KeyRef>,
    }
}
api_type! { /// ObjectFieldSelector.
    FieldRef { field_path: String, }
}
api_type! { /// ResourceFieldSelector.
    ResourceFieldRef { container_name: String, resource: String, divisor: Option<Amount>, }
}
api_type! { /// ConfigMapKeySelector and SecretKeySelector.
    KeyRef { name: String, key: String, optional: bool, }
}
api_type! { /// EnvFromSource.
    EnvFrom { prefix: String, config_map_ref: Option<NameRef>, secret_ref: Option<NameRef>, }
}
api_type! { /// ConfigMapEnvSource and SecretEnvSource.
    NameRef { name: String, optional: bool, }
}
api_type! {
    /// VolumeMount.
    VolumeMount {
        name: String, mount_path: String, sub_path: String, sub_path_expr: String, read_only: bool,
        mount_propagation: Option<String>,
    }
}
api_type! {
    /// Probe.
    Probe {
        exec: Option<ExecAction>, http_get: Option<HttpGet>, tcp_socket: Option<TcpSocket>,
        grpc: Option<GrpcAction>,
        initial_delay_seconds: u32, timeout_seconds: Option<u32>, period_seconds: Option<u32>,
        success_threshold: Option<u32>, failure_threshold: Option<u32>,
        termination_grace_period_seconds: Option<i64>,
    }
}
api_type! { /// ExecAction.
    ExecAction { command: Vec<String>, }
}
api_type! {
    /// HTTPGetAction.
    HttpGet {
        path: String, port: Port, host: String, scheme: String, http_headers: Vec<HttpHeader>,
    }
}
api_type! { /// HTTPHeader.
    HttpHeader { name: String, value: String, }
}
api_type! { /// GRPCAction.
    GrpcAction { port: u16, service: String, }
}
api_type! { /// TCPSocketAction.
    TcpSocket { port: Port, host: String, }
}
api_type! {
    /// Lifecycle.
    Lifecycle {
        post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: Option<String>,
    }
}
api_type! { /// LifecycleHandler.
    Handler {
        exec: Option<ExecAction>, http_get: Option<HttpGet>, tcp_socket: Option<TcpSocket>,
        sleep: Option<Sleep>,
    }
}
api_type! { /// SleepAction.
    Sleep { seconds: u32, }
}
api_type! {
    /// Volume; a source that is none of these is in `other`.
    Volume {
        name: String,
        empty_dir: Option<EmptyDir>, config_map: Option<ConfigMapSource>,
        secret: Option<SecretSource>, projected: Option<Projected>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApi>,
        host_path: Option<HostPath>,
        #[serde(flatten)] other: BTreeMap<String, Value>,
    }
}
api_type! { /// EmptyDirVolumeSource.
    EmptyDir { medium: String, size_limit: Option<Amount>, }
}
api_type! {
    /// ConfigMapVolumeSource and ConfigMapProjection.
    ConfigMapSource {
        name: String, items: Vec<KeyToPath>, default_mode: Option<u32>, optional: bool,
    }
}
api_type! {
    /// SecretVolumeSource (`secretName`) and SecretProjection (`name`).
    SecretSource {
        #[serde(alias = "secretName")] name: String,
        items: Vec<KeyToPath>, default_mode: Option<u32>, optional: bool,
    }
}
api_type! { /// KeyToPath.
    KeyToPath { key: String, path: String, mode: Option<u32>, }
}
api_type! { /// ProjectedVolumeSource.
    Projected { sources: Vec<Projection>, default_mode: Option<u32>, }
}
api_type! {
    /// VolumeProjection.
    Projection {
        config_map: Option<ConfigMapSource>, secret: Option<SecretSource>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApi>,
        service_account_token: Option<TokenFile>,
        #[serde(flatten)] other: BTreeMap<String, Value>,
    }
}
api_type! { /// ServiceAccountTokenProjection.
    TokenFile { audience: String, expiration_seconds: Option<u64>, path: String, }
}
api_type! { /// DownwardAPIVolumeSource and DownwardAPIProjection.
    DownwardApi { items: Vec<DownwardFile>, default_mode: Option<u32>, }
}
api_type! {
    /// DownwardAPIVolumeFile.
    DownwardFile {
        path: String, field_ref: Option<FieldRef>, resource_field_ref: Option<ResourceFieldRef>,
        mode: Option<u32>,
    }
}
api_type! { /// HostPathVolumeSource.
    HostPath { path: String, r#type: String, }
}

/// A quantity as the API writes it: mostly text, sometimes a bare number.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// `"500m"`.
    Text(String),
    /// `2`.
    Number(serde_json::Number),
}

impl Amount {
    /// The quantity's text.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// IntOrString.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// A number.
    Number(u16),
    /// The name of one of the container's ports.
    Name(String),
}

impl Default for Port {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Port {
    /// The number, looked up in the container's ports.
    pub fn resolve(&self, container: &Container) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => {
                let named = container.ports.iter().find(|port| port.name == *name);
                named.map(|port| port.container_port).or_else(|| name.parse().ok())
            }
        }
        .filter(|port| *port > 0)
    }
}

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    #[default]
    Always,
    /// Unless its exit code is 0.
    OnFailure,
    /// Not.
    Never,
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PullPolicy {
    /// When the board does not have it.
    #[default]
    IfNotPresent,
    /// Before each start.
    Always,
    /// By nobody but the user.
    Never,
}
