//! Service accounts: the volume with a token that pods get, and requests for tokens.
//!
//! As the plugin ServiceAccount and `registry/core/serviceaccount/storage/token.go` of a real server.
//! Deliberately absent: an account that does not exist refuses no pod (its pod waits for its token
//! instead, as it may have been made before the controller has made the account of a new namespace).

use logic::account::{BindKind, BindTo, ISSUER};
use model::ids::Uid;
use model::limits::{TOKEN_AUDIENCES_MAX, TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN};
use model::resource;
use model::status::ApiError;
use model::validation::FieldError;
use model::validation::error::invalid;
use serde_json::{Value, json};

use super::object::{meta_mut, meta_str, parse};
use super::types::{Target, WriteOptions};
use super::{Registry, body, metadata};

/// What the name of the volume begins with.
const VOLUME: &str = "kube-api-access-";
/// Where clients look for their token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and a little to be recognised by.
const POD_TOKEN_SECONDS: u64 = 3607;
/// What a token lives when nobody says.
const TOKEN_SECONDS: u64 = 3600;

/// A request for a token, checked.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Whom the token is for.
    pub audiences: Vec<String>,
    /// How long it is to live.
    pub seconds: u64,
    /// What it is to be bound to.
    pub to: Option<BindTo>,
    /// The request itself, complete but for its status.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Registry {
    /// Gives a new pod, whose defaults are set, the volume with the token of its account.
    pub(super) fn add_token_volume(
        &self,
        target: &Target,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        let may_have = self.options().token_volumes && target.resource.key == "/pods";
        if !may_have || !self.mounts_token(target, pod)? {
            return Ok(());
        }
        let spec = &mut pod["spec"];
        let volumes = spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names = volumes.iter().filter_map(|volume| volume["name"].as_str());
        let present = names.find(|name| name.starts_with(VOLUME)).map(str::to_owned);
        let name = match &present {
            Some(name) => name.clone(),
            None => metadata::generate_name(VOLUME)?,
        };
        let mut is_needed = false;
        for list in ["initContainers", "containers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                is_needed |= mount(container, &name);
            }
        }
        if is_needed && present.is_none() {
            push(&mut spec["volumes"], volume(&name));
        }
        Ok(())
    }

    /// Whether the pod, or else its account, wants a token.
    fn mounts_token(&self, target: &Target, pod: &Value) -> Result<bool, ApiError> {
        if let Some(mounts) = pod["spec"]["automountServiceAccountToken"].as_bool() {
            return Ok(mounts);
        }
        let accounts =
            resource::by_kind_key("/serviceaccounts").expect("accounts are in the table");
        let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        let account = self.find(&Target::new(accounts, target.namespace.as_str(), name))?;
        let wish =
            account.map(|record| parse(&record.body)["automountServiceAccountToken"].clone());
        Ok(wish.and_then(|wish| wish.as_bool()).unwrap_or(true))
    }

    /// Checks the body of a POST to `serviceaccounts/token`.
    ///
    /// # Errors
    /// 404 without such an account, 400 or 422 for a request that is not valid.
    pub fn token_request(
        &self,
        account: &Target,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<TokenRequest, ApiError> {
        let wanted = body::Type::of("authentication.k8s.io", "v1", "TokenRequest");
        let warnings = body::check_as(wanted, &mut object, options)?;
        // The name in the body may be left away, as `kubectl create token` does.
        if meta_str(&object, "name").is_empty() {
            meta_mut(&mut object).insert("name".into(), account.name.clone().into());
        }
        body::check_name(account, &mut object)?;
        self.record(account)?;
        let spec = &object["spec"];
        let texts = |list: &Value| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let mut audiences = texts(&spec["audiences"]);
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(TOKEN_SECONDS as i64);
        let mut errors = check_seconds(seconds);
        if audiences.len() > TOKEN_AUDIENCES_MAX {
            let count = audiences.len();
            errors.push(FieldError::too_many("spec.audiences", count, TOKEN_AUDIENCES_MAX));
        }
        if !errors.is_empty() {
            return Err(invalid("authentication.k8s.io", "TokenRequest", "", &errors));
        }
        let to = bound_to(&spec["boundObjectRef"])?;
        object["metadata"]["name"] = account.name.as_str().into();
        object["metadata"]["namespace"] = account.namespace.as_str().into();
        object["metadata"]["creationTimestamp"] = self.clock().now().to_string().into();
        object["spec"]["audiences"] = json!(audiences);
        object["spec"]["expirationSeconds"] = seconds.into();
        let seconds = u64::try_from(seconds).unwrap_or(TOKEN_SECONDS);
        Ok(TokenRequest { audiences, seconds, to, object, warnings })
    }
}

/// The volume of a token (`serviceaccount.TokenVolumeSource`).
fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": POD_TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Mounts the volume in a container that has nothing at its place; `true` when it has it.
fn mount(container: &mut Value, name: &str) -> bool {
    let mounts = &mut container["volumeMounts"];
    let at_place = |mount: &Value| mount["mountPath"] == MOUNT_PATH;
    if mounts.as_array().into_iter().flatten().any(at_place) {
        return false;
    }
    push(mounts, json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
    true
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn check_seconds(seconds: i64) -> Vec<FieldError> {
    let field = "spec.expirationSeconds";
    if seconds < TOKEN_SECONDS_MIN as i64 {
        let why = "may not specify a duration less than 10 minutes";
        return vec![FieldError::invalid(field, seconds, why)];
    }
    if seconds > TOKEN_SECONDS_MAX as i64 {
        let why = "may not specify a duration larger than 2^32 seconds";
        return vec![FieldError::invalid(field, seconds, why)];
    }
    Vec::new()
}

fn bound_to(reference: &Value) -> Result<Option<BindTo>, ApiError> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let kind = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => BindKind::Pod,
        ("v1", "Secret") => BindKind::Secret,
        ("v1", "Node") => BindKind::Node,
        (version, kind) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    };
    // A uid that is none is nobody's.
    let uid = Some(text("uid")).filter(|uid| !uid.is_empty());
    let uid = uid.map(|uid| Uid::parse(uid).unwrap_or_default());
    Ok(Some(BindTo { kind, name: text("name").to_owned(), uid }))
}
