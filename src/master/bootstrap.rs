//! What every cluster has from its first moment: four namespaces, the first roles, the `kubernetes`
//! Service with its endpoints, and the `kube-dns` Service, which every board answers itself. Run on
//! becoming master; writes nothing when nothing is missing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use logic::controller::Op;
use model::ids::ObjectKey;
use model::view::kind::{self, ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use serde_json::{Value, json};

use super::access::bootstrap::{self as roles, RolesError};
use super::registry::{CommitError, Registry};
use crate::io::store::StoreError;

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const DNS: &str = "kube-dns";
/// Attempts while others write the same objects.
const ATTEMPTS_MAX: u32 = 8;

/// Where the API is.
#[derive(Clone, Debug)]
pub struct ApiAddress {
    /// Address of this master; without one that others can reach there are no endpoints yet.
    pub address: Ipv4Addr,
    /// Port of the API.
    pub port: u16,
    /// The other masters, which answer at the same port.
    pub others: Vec<Ipv4Addr>,
}

impl ApiAddress {
    /// All of them in order, so that the objects are the same whoever leads.
    fn all(&self) -> Vec<Ipv4Addr> {
        let all: BTreeSet<Ipv4Addr> = self.others.iter().copied().chain([self.address]).collect();
        all.into_iter().filter(is_reachable).collect()
    }
}

/// Whether pods can reach an address: the API refuses others as endpoints, and they would lead
/// nowhere.
fn is_reachable(address: &Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_link_local())
}

/// Why the first objects could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store cannot be read.
    #[error("cannot read whether the first objects exist")]
    Read(#[source] StoreError),
    /// The store refuses a write.
    #[error("cannot write the first object {0}")]
    Write(ObjectKey, #[source] CommitError),
    /// The first roles could not be made.
    #[error(transparent)]
    Roles(#[from] RolesError),
}

impl BootstrapError {
    /// Whether it passes by itself, or when somebody frees space: worth another try.
    pub fn passes(&self) -> bool {
        let passes =
            |error: &CommitError| !matches!(error, CommitError::Rejected(_) | CommitError::Closed);
        matches!(self, Self::Write(_, error) | Self::Roles(RolesError::Write(error)) if passes(error))
    }
}

/// Makes what is missing and corrects what is wrong.
///
/// # Errors
/// When the store or the API refuses it.
pub async fn run(registry: &Registry, api: ApiAddress) -> Result<(), BootstrapError> {
    for name in NAMESPACES {
        let key = ObjectKey { kind: kind::NAMESPACES, namespace: "".into(), name: name.into() };
        let labels = json!({ "kubernetes.io/metadata.name": name });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": labels } });
        ensure(registry, key, object).await?;
    }
    roles::ensure(registry).await?;
    let service_address = registry.options().service_range.api_address();
    let dns = dns_service(registry.options().service_range.dns_address());
    let mut objects = vec![(SERVICES, service(service_address, api.port)), (SERVICES, dns)];
    if is_reachable(&api.address) {
        objects.push((ENDPOINTS, endpoints(&api)));
        objects.push((ENDPOINT_SLICES, endpoint_slice(&api)));
    } else {
        let address = api.address;
        tracing::warn!(%address, "this board has no address that pods could reach the API at");
    }
    for (kind, object) in objects {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey { kind, namespace: text("namespace"), name: text("name") };
        match ensure(registry, key, object).await {
            // Somebody brought DNS of their own, or took its address before there was any.
            Err(BootstrapError::Write(key, CommitError::Rejected(why))) if key.name == DNS => {
                tracing::warn!(
                    %key, %why,
                    "pods ask the boards for names at an address that is taken: delete the Service \
                     that has it, and restart"
                );
            }
            ensured => ensured?,
        }
    }
    Ok(())
}

fn service(address: Ipv4Addr, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()], "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    })
}

/// The Service that pods ask for names: it has no endpoints, every board answers its address itself.
fn dns_service(address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": DNS, "namespace": "kube-system",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "kumquat" } },
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()], "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "ports": [
                { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53 },
                { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53 },
            ],
        },
    })
}

fn endpoints(api: &ApiAddress) -> Value {
    let addresses = api.all().into_iter().map(|address| json!({ "ip": address.to_string() }));
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "kubernetes", "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{
            "addresses": addresses.collect::<Vec<_>>(),
            "ports": [{ "name": "https", "port": api.port, "protocol": "TCP" }],
        }],
    })
}

fn endpoint_slice(api: &ApiAddress) -> Value {
    let endpoint = |address: Ipv4Addr| json!({ "addresses": [address.to_string()], "conditions": { "ready": true } });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": "IPv4",
        "endpoints": api.all().into_iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "https", "port": api.port, "protocol": "TCP" }],
    })
}

/// Creates the object, or patches it where it says something else.
async fn ensure(registry: &Registry, key: ObjectKey, object: Value) -> Result<(), BootstrapError> {
    for attempt in 1.. {
        let record = registry.store().get(&key).map_err(BootstrapError::Read)?;
        let op = match record {
            None => Op::Create { kind: key.kind.clone(), object: object.clone() },
            Some(record) => {
                let have: Value = serde_json::from_slice(&record.body).unwrap_or_default();
                if have["metadata"]["deletionTimestamp"].is_string() || says(&have, &object) {
                    return Ok(());
                }
                let (key, base) = (key.clone(), record.version);
                Op::Patch { key, base, subresource: None, merge: object.clone() }
            }
        };
        match registry.commit(vec![op]).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict) if attempt < ATTEMPTS_MAX => (),
            Err(error) => return Err(BootstrapError::Write(key, error)),
        }
    }
    Ok(())
}

/// Whether `have` says at least what `wanted` does; lists must be equal in length and order.
fn says(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => wanted.iter().all(|(name, value)| {
            // Stored objects need not repeat their kind.
            let implied = matches!(name.as_str(), "apiVersion" | "kind");
            have.get(name).map_or(implied, |have| says(have, value))
        }),
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(a, b)| says(a, b))
        }
        (have, wanted) => have == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_say_more_but_not_else() {
        let wanted = json!({"kind": "X", "a": {"b": 1}, "c": [{"d": 2}]});
        assert!(says(&json!({"a": {"b": 1, "x": 0}, "c": [{"d": 2, "y": 0}]}), &wanted));
        assert!(!says(&json!({"a": {"b": 2}, "c": [{"d": 2}]}), &wanted));
        assert!(!says(&json!({"a": {"b": 1}, "c": []}), &wanted));
        assert!(!says(&json!({"c": [{"d": 2}]}), &wanted));
    }
}
