//! A container's environment (kubelet `makeEnvironmentVariables`): of the variables of services only
//! those of the API, by which clients in pods find it; names are what the others are found by.

use std::net::Ipv4Addr;

use logic::pod::spec::{Container, EnvSource, EnvVar, KeyRef, Pod};

use super::field::{self, BoardFacts};
use crate::node::object::Objects;

/// `PATH` where neither image nor pod gives one, as container runtimes do.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The port of the API's service.
const API_PORT: u16 = 443;

/// Variables in the order in which they were first set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Expands `$(NAME)`; `$$` is a dollar, an unknown name stays as it is written
    /// (`third_party/forked/golang/expansion`).
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) =
                rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
            {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out + rest
    }

    /// `NAME=value` entries on top of the image's own.
    pub(crate) fn over_image(&self, image: &[String], hostname: &str) -> Vec<String> {
        let mut all = Self::default();
        all.set("HOSTNAME", hostname.to_owned());
        let given = std::iter::once(PATH_DEFAULT).chain(image.iter().map(String::as_str));
        for (name, value) in given.filter_map(|entry| entry.split_once('=')) {
            all.set(name, value.to_owned());
        }
        for (name, value) in &self.0 {
            all.set(name, value.clone());
        }
        all.0.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// Builds the pod's part of a container's environment.
///
/// # Errors
/// What is missing, as kubelet words it under `CreateContainerConfigError`.
pub(crate) fn build(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    board: &BoardFacts,
) -> Result<Environment, String> {
    let mut environment = Environment::default();
    if let Some(address) = board.api_address {
        api_variables(&mut environment, address);
    }
    let namespace = &pod.metadata.namespace;
    for from in &container.env_from {
        let (reference, object) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (reference, objects.config_map(namespace, &reference.name)),
            (_, Some(reference)) => (reference, objects.secret(namespace, &reference.name)),
            _ => continue,
        };
        let data = match object {
            Ok(data) => data,
            Err(_) if reference.optional => continue,
            Err(error) => return Err(error),
        };
        for (key, value) in data {
            // Bytes that are no text cannot be a variable.
            if let (true, Ok(value)) = (is_variable_name(&key), String::from_utf8(value)) {
                environment.set(&format!("{}{key}", from.prefix), value);
            }
        }
    }
    for variable in &container.env {
        if let Some(value) = value_of(variable, pod, container, objects, board, &environment)? {
            environment.set(&variable.name, value);
        }
    }
    Ok(environment)
}

/// Where the API is (kubelet `envvars.FromServices` of the service `kubernetes`).
fn api_variables(environment: &mut Environment, address: Ipv4Addr) {
    let (port, url) = (API_PORT.to_string(), format!("tcp://{address}:{API_PORT}"));
    let tcp = format!("KUBERNETES_PORT_{API_PORT}_TCP");
    environment.set("KUBERNETES_SERVICE_HOST", address.to_string());
    environment.set("KUBERNETES_SERVICE_PORT", port.clone());
    environment.set("KUBERNETES_SERVICE_PORT_HTTPS", port.clone());
    environment.set("KUBERNETES_PORT", url.clone());
    environment.set(&tcp, url);
    environment.set(&format!("{tcp}_PROTO"), "tcp".to_owned());
    environment.set(&format!("{tcp}_PORT"), port);
    environment.set(&format!("{tcp}_ADDR"), address.to_string());
}

fn value_of(
    variable: &EnvVar,
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    board: &BoardFacts,
    environment: &Environment,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(environment.expand(&variable.value)));
    };
    match source {
        EnvSource { field_ref: Some(reference), .. } => {
            field::field(reference, pod, board).map(Some)
        }
        EnvSource { resource_field_ref: Some(reference), .. } => {
            field::resource(reference, pod, Some(container), board).map(Some)
        }
        EnvSource { config_map_key_ref: Some(reference), .. } => {
            let object = objects.config_map(&pod.metadata.namespace, &reference.name);
            key_of(reference, object, "ConfigMap", &pod.metadata.namespace)
        }
        EnvSource { secret_key_ref: Some(reference), .. } => {
            let object = objects.secret(&pod.metadata.namespace, &reference.name);
            key_of(reference, object, "Secret", &pod.metadata.namespace)
        }
        _ => Err(format!("variable {} has a source that is not supported", variable.name)),
    }
}

fn key_of(
    reference: &KeyRef,
    object: Result<std::collections::BTreeMap<String, Vec<u8>>, String>,
    kind: &str,
    namespace: &str,
) -> Result<Option<String>, String> {
    let KeyRef { name, key, optional } = reference;
    match object {
        Ok(mut data) => match data.remove(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            None if *optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        },
        Err(_) if *optional => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_variable_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_in_kubernetes() {
        let mut environment = Environment::default();
        environment.set("A", "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(environment.expand(text), expected);
        }
    }

    #[test]
    fn a_pod_finds_the_api_unless_it_says_otherwise() {
        let pod = Pod::parse(
            br#"{"metadata":{"name":"p","namespace":"n"},"spec":{"containers":[{"name":"c",
            "env":[{"name":"KUBERNETES_SERVICE_PORT","value":"1"},
                {"name":"URL","value":"https://$(KUBERNETES_SERVICE_HOST)"}]}]}}"#,
        )
        .expect("a pod");
        let (container, objects) = (&pod.spec.containers[0], Objects::default());
        let api_address = Some(Ipv4Addr::new(10, 43, 0, 1));
        let board = BoardFacts { api_address, ..BoardFacts::default() };
        let environment = build(&pod, container, &objects, &board).expect("all there");
        let check = |name: &str, expected: &str| assert_eq!(environment.get(name), Some(expected));
        check("KUBERNETES_SERVICE_HOST", "10.43.0.1");
        check("KUBERNETES_SERVICE_PORT", "1");
        check("KUBERNETES_SERVICE_PORT_HTTPS", "443");
        check("KUBERNETES_PORT_443_TCP_ADDR", "10.43.0.1");
        check("URL", "https://10.43.0.1");
        let without = build(&pod, container, &objects, &BoardFacts::default()).expect("built");
        assert_eq!(without.get("KUBERNETES_SERVICE_HOST"), None);
    }

    #[test]
    fn sources_are_merged_in_order() {
        let pod = Pod::parse(
            br#"{"metadata":{"name":"p","namespace":"n"},"spec":{"containers":[{"name":"c",
            "envFrom":[{"prefix":"P_","configMapRef":{"name":"m"}}],
            "env":[{"name":"A","value":"$(P_k)!"},
                {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"x"}}},
                {"name":"N","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}]}}"#,
        )
        .expect("a pod");
        let objects = Objects::of_json(&[
            ("configmaps n/m", r#"{"data":{"k":"v"}}"#),
            ("secrets n/s", r#"{"data":{"x":"aGk="}}"#),
        ]);
        let container = &pod.spec.containers[0];
        let board = BoardFacts::default();
        let environment = build(&pod, container, &objects, &board).expect("all there");
        let image = ["A=image".to_owned(), "Z=26".to_owned()];
        let all = environment.over_image(&image, "h");
        for expected in ["HOSTNAME=h", "P_k=v", "A=v!", "S=hi", "N=p", "Z=26", PATH_DEFAULT] {
            assert!(all.iter().any(|entry| entry == expected), "{expected} in {all:?}");
        }
        let error = build(&pod, container, &Objects::default(), &board).expect_err("missing");
        assert_eq!(error, "configmap \"m\" not found");
    }
}
