//! `fieldRef` and `resourceFieldRef`: values of a pod that its own containers can read.

use std::net::Ipv4Addr;

use logic::pod::spec::{Container, FieldRef, Pod, ResourceFieldRef};
use model::quantity::{Format, Quantity};

/// What a pod can learn of its board.
#[derive(Clone, Debug, Default)]
pub(crate) struct BoardFacts {
    /// Node name.
    pub(crate) name: String,
    /// Its address; empty for none.
    pub(crate) address: String,
    /// The address of the pod that asks; empty for none.
    pub(crate) pod_address: String,
    /// The address of the API's service; `None` where there is none.
    pub(crate) api_address: Option<Ipv4Addr>,
    /// Allocatable cpu in thousandths.
    pub(crate) cpu_millis: i64,
    /// Allocatable memory.
    pub(crate) memory_bytes: i64,
}

/// The value of a field; an error as kubelet words it.
pub(crate) fn field(reference: &FieldRef, pod: &Pod, board: &BoardFacts) -> Result<String, String> {
    let path = reference.field_path.as_str();
    let metadata = &pod.metadata;
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match base {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let lines: Vec<String> =
            map.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => pairs(&metadata.labels),
        "metadata.annotations" => pairs(&metadata.annotations),
        "spec.nodeName" => board.name.clone(),
        "spec.serviceAccountName" => {
            pod.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" | "status.hostIPs" => board.address.clone(),
        "status.podIP" | "status.podIPs" => match pod.spec.host_network {
            true => board.address.clone(),
            false => board.pod_address.clone(),
        },
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a resource, in whole divisors, rounded up (`resource.ExtractContainerResourceValue`).
pub(crate) fn resource(
    reference: &ResourceFieldRef,
    pod: &Pod,
    own: Option<&Container>,
    board: &BoardFacts,
) -> Result<String, String> {
    let container = match reference.container_name.as_str() {
        "" => own,
        name => pod.container(name),
    };
    let container = container.ok_or("container of the resourceFieldRef not found")?;
    let (list, name) = reference.resource.split_once('.').ok_or("invalid resource")?;
    let amount = match list {
        "limits" => container.resources.limits.get(name),
        "requests" => container.resources.requests.get(name),
        other => return Err(format!("unsupported container resource : {other}")),
    };
    let quantity = match amount {
        Some(amount) => Quantity::parse(&amount.text()).map_err(|error| error.to_string())?,
        // Without a limit a container may use what the board has.
        None if list == "limits" && name == "cpu" => Quantity::from_millis(board.cpu_millis),
        None if list == "limits" && name == "memory" => {
            Quantity::from_units(board.memory_bytes, Format::BinarySi)
        }
        None => return Ok("0".to_owned()),
    };
    let divisor = match &reference.divisor {
        Some(divisor) => Quantity::parse(&divisor.text()).map_err(|error| error.to_string())?,
        None => Quantity::from_units(1, Format::DecimalSi),
    };
    let (value, divisor) = match name {
        "cpu" => (quantity.milli_value(), divisor.milli_value()),
        _ => (quantity.value(), divisor.value()),
    };
    let divisor = if divisor <= 0 { if name == "cpu" { 1_000 } else { 1 } } else { divisor };
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod::parse(
            br#"{"metadata":{"name":"p","namespace":"n","labels":{"a":"b"}},
                "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1500m"}}}]}}"#,
        )
        .expect("a pod")
    }

    #[test]
    fn fields_are_found() {
        let board = BoardFacts {
            name: "pi".to_owned(),
            pod_address: "10.42.0.2".to_owned(),
            ..BoardFacts::default()
        };
        let get = |path: &str| field(&FieldRef { field_path: path.to_owned() }, &pod(), &board);
        assert_eq!(get("metadata.labels['a']").as_deref(), Ok("b"));
        assert_eq!(get("metadata.labels").as_deref(), Ok("a=\"b\""));
        assert_eq!(get("spec.nodeName").as_deref(), Ok("pi"));
        assert_eq!(get("status.podIP").as_deref(), Ok("10.42.0.2"));
        assert_eq!(get("spec.serviceAccountName").as_deref(), Ok("default"));
        assert!(get("spec.bogus").is_err());
    }

    #[test]
    fn resources_round_up() {
        let board = BoardFacts { memory_bytes: 1 << 30, ..BoardFacts::default() };
        let pod = pod();
        let get = |resource_name: &str, divisor: &str| {
            let divisor = logic::pod::spec::Amount::Text(divisor.to_owned());
            let reference = ResourceFieldRef {
                container_name: "c".to_owned(),
                resource: resource_name.to_owned(),
                divisor: Some(divisor),
            };
            resource(&reference, &pod, None, &board)
        };
        assert_eq!(get("limits.cpu", "1").as_deref(), Ok("2"));
        assert_eq!(get("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(get("limits.memory", "1Mi").as_deref(), Ok("1024"));
        assert_eq!(get("limits.memory", "0").as_deref(), Ok("1073741824"));
    }
}
