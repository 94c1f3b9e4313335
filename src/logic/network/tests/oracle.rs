//! What boards should know, from the objects alone: no views, no indexes, no increments.

use super::*;

fn addresses(texts: impl Iterator<Item = Value>) -> Vec<Ipv4Addr> {
    texts.filter_map(|text| text.as_str()?.parse().ok()).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn of_kind<'a>(
    objects: &'a Objects,
    kind: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Value)> {
    objects.iter().filter(move |(key, _)| key.kind == kind)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn protocol(value: &Value) -> Protocol {
    Protocol::parse(value.as_str()).expect("made by this test")
}

pub(super) fn state(objects: &Objects, revision: u64) -> NetState {
    let name = |key: &ObjectKey| format!("{}/{}", key.namespace, key.name);
    NetState {
        revision,
        boards: of_kind(objects, "/nodes")
            .map(|(key, body)| (key.name.as_str().into(), board(key, body).into()))
            .collect(),
        services: of_kind(objects, "/services")
            .map(|(key, body)| (name(key).into(), service(objects, key, body).into()))
            .collect(),
        policies: of_kind(objects, "networking.k8s.io/networkpolicies")
            .map(|(key, body)| (name(key).into(), policy(objects, key, body).into()))
            .collect(),
    }
}

fn board(key: &ObjectKey, body: &Value) -> NetBoard {
    let internal = list(&body["status"]["addresses"]).filter(|it| it["type"] == "InternalIP");
    NetBoard {
        name: key.name.clone(),
        address: addresses(internal.map(|it| it["address"].clone())).first().copied(),
        pods: body["spec"]["podCIDR"].as_str().and_then(|text| text.parse().ok()),
        prefix: 0,
        ready: body["status"]["conditions"][0]["status"] == "True",
    }
}

fn service(objects: &Objects, key: &ObjectKey, body: &Value) -> NetService {
    let (spec, kind) = (&body["spec"], text(&body["spec"]["type"]));
    let external = kind == "ExternalName";
    let balancer = kind == "LoadBalancer";
    let ports: Vec<NetPort> = list(&spec["ports"])
        .map(|port| NetPort {
            name: text(&port["name"]),
            protocol: protocol(&port["protocol"]),
            port: port["port"].as_u64().expect("given") as u16,
            node_port: match kind.as_str() {
                "NodePort" | "LoadBalancer" => port["nodePort"].as_u64().expect("given") as u16,
                _ => 0,
            },
        })
        .collect();
    let ingress = list(&body["status"]["loadBalancer"]["ingress"]).map(|it| it["ip"].clone());
    let endpoints = if external { Vec::new() } else { endpoints(objects, key, &ports) };
    NetService {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        cluster_ip: spec["clusterIP"].as_str().and_then(|it| it.parse().ok()).filter(|_| !external),
        external_name: external.then(|| text(&spec["externalName"])),
        load_balancer: if balancer { addresses(ingress) } else { Vec::new() },
        source_ranges: list(&spec["loadBalancerSourceRanges"])
            .filter_map(|it| it.as_str()?.parse().ok())
            .collect(),
        ports,
        publish_not_ready: spec["publishNotReadyAddresses"] == true,
        endpoints,
        ..NetService::default()
    }
}

/// What one slice says of one address is merged into the first endpoint there whose ports it does
/// not contradict, in the order of the slices' names.
fn endpoints(objects: &Objects, service: &ObjectKey, ports: &[NetPort]) -> Vec<NetEndpoint> {
    let mut all: Vec<NetEndpoint> = Vec::new();
    for (_, slice) in of_kind(objects, "discovery.k8s.io/endpointslices").filter(|(key, slice)| {
        key.namespace == service.namespace
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service.name.as_str()
            && slice["addressType"] == "IPv4"
    }) {
        let numbers: Vec<u16> = ports
            .iter()
            .map(|port| {
                let mut found = list(&slice["ports"]).filter(|it| {
                    it["name"] == port.name.as_str() && protocol(&it["protocol"]) == port.protocol
                });
                found.next().map_or(0, |it| it["port"].as_u64().expect("given") as u16)
            })
            .collect();
        for endpoint in list(&slice["endpoints"]) {
            let says = |name: &str| endpoint["conditions"][name].as_bool();
            let ready = says("ready").unwrap_or(true);
            let new = NetEndpoint {
                address: text(&endpoint["addresses"][0]).parse().expect("an address"),
                board: text(&endpoint["nodeName"]),
                hostname: String::new(),
                pod: text(&endpoint["targetRef"]["name"]),
                ready,
                serving: says("serving").unwrap_or(ready),
                terminating: says("terminating").unwrap_or(false),
                ports: numbers.clone(),
            };
            let contradicts = |old: &NetEndpoint| {
                let both = old.ports.iter().zip(&new.ports);
                both.into_iter().any(|(old, new)| *old != 0 && *new != 0 && old != new)
            };
            let mut here = all.iter_mut().filter(|old| old.address == new.address);
            match here.find(|old| !contradicts(old)) {
                None => all.push(new),
                Some(old) => {
                    for at in 0..numbers.len() {
                        old.ports[at] = old.ports[at].max(new.ports[at]);
                    }
                    old.ready = old.ready || new.ready;
                    old.serving = old.serving || new.serving;
                    old.terminating = old.terminating && new.terminating;
                }
            }
        }
    }
    all.sort();
    all
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    exact.into_iter().all(|(name, value)| labels[name] == *value)
        && list(&selector["matchExpressions"]).all(|wanted| {
            let value = &labels[wanted["key"].as_str().expect("a key")];
            match wanted["operator"].as_str() {
                Some("In") => list(&wanted["values"]).any(|it| it == value),
                _ => value.is_null(),
            }
        })
}

/// Pods that have, or will have, an address of their own.
fn networked(objects: &Objects) -> impl Iterator<Item = (&ObjectKey, &Value)> {
    of_kind(objects, "/pods")
        .filter(|(_, pod)| pod["spec"]["hostNetwork"] != true)
        .filter(|(_, pod)| pod["status"]["phase"] != "Succeeded")
}

/// Those that have it.
fn pods(objects: &Objects) -> impl Iterator<Item = (&ObjectKey, &Value, Ipv4Addr)> {
    networked(objects)
        .filter_map(|(key, pod)| Some((key, pod, pod["status"]["podIP"].as_str()?.parse().ok()?)))
}

fn policy(objects: &Objects, key: &ObjectKey, body: &Value) -> NetPolicy {
    let spec = &body["spec"];
    let types: Vec<&str> = list(&spec["policyTypes"]).filter_map(Value::as_str).collect();
    let has_egress = list(&spec["egress"]).next().is_some();
    let (ingress, egress) = match types.is_empty() {
        true => (true, has_egress),
        false => (types.contains(&"Ingress"), types.contains(&"Egress")),
    };
    let own = |pod: &ObjectKey, body: &Value| {
        pod.namespace == key.namespace && matches(&spec["podSelector"], &body["metadata"]["labels"])
    };
    let selected: BTreeSet<Ipv4Addr> =
        pods(objects).filter(|(pod, body, _)| own(pod, body)).map(|it| it.2).collect();
    let rules = |rules: &Value, peers: &str| -> Vec<NetRule> {
        list(rules).filter_map(|it| rule(objects, key, it, &it[peers], peers, &own)).collect()
    };
    let starting: BTreeSet<Uid> = networked(objects)
        .filter(|(pod, body)| own(pod, body) && body["status"]["podIP"].is_null())
        .map(|(pod, _)| uid(pod))
        .collect();
    NetPolicy {
        starting: starting.into_iter().collect(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        pods: selected.into_iter().collect(),
        ingress: ingress.then(|| rules(&spec["ingress"], "from")),
        egress: egress.then(|| rules(&spec["egress"], "to")),
    }
}

fn rule(
    objects: &Objects,
    policy: &ObjectKey,
    rule: &Value,
    peers: &Value,
    direction: &str,
    own: &dyn Fn(&ObjectKey, &Value) -> bool,
) -> Option<NetRule> {
    let by_selector = |pod: &ObjectKey, body: &Value| {
        list(peers).filter(|peer| peer["ipBlock"].is_null()).any(|peer| {
            let namespace = match &peer["namespaceSelector"] {
                Value::Null => pod.namespace == policy.namespace,
                selector => of_kind(objects, "/namespaces")
                    .filter(|(key, _)| key.name == pod.namespace)
                    .any(|(_, body)| matches(selector, &body["metadata"]["labels"])),
            };
            namespace && matches(&peer["podSelector"], &body["metadata"]["labels"])
        })
    };
    let has_blocks = list(peers).any(|peer| !peer["ipBlock"].is_null());
    let anybody = list(peers).next().is_none();
    let exists =
        |pod: &ObjectKey| of_kind(objects, "/namespaces").any(|(key, _)| key.name == pod.namespace);
    let is_destination = |pod: &ObjectKey, body: &Value| match direction {
        "from" => own(pod, body),
        _ => by_selector(pod, body) || ((anybody || has_blocks) && exists(pod)),
    };
    let mut ports = Vec::new();
    for port in list(&rule["ports"]) {
        let protocol = protocol(&port["protocol"]);
        if port["port"].is_null() {
            ports.push(NetPolicyPort { protocol, ..NetPolicyPort::default() });
        } else if let Some(first) = port["port"].as_u64() {
            let end = port["endPort"].as_u64().unwrap_or(first) as u16;
            ports.push(NetPolicyPort { protocol, port: first as u16, end, only: Vec::new() });
        } else {
            let mut numbers: BTreeMap<u16, BTreeSet<Ipv4Addr>> = BTreeMap::new();
            for (pod, body, address) in pods(objects) {
                let of_pod = list(&body["spec"]["containers"][0]["ports"]);
                let found = of_pod
                    .filter(|it| it["name"] == port["port"])
                    .find(|it| super::oracle::protocol(&it["protocol"]) == protocol);
                if let Some(found) = found.filter(|_| is_destination(pod, body)) {
                    let number = found["containerPort"].as_u64().expect("given") as u16;
                    numbers.entry(number).or_default().insert(address);
                }
            }
            ports.extend(numbers.into_iter().map(|(number, only)| NetPolicyPort {
                protocol,
                port: number,
                end: number,
                only: only.into_iter().collect(),
            }));
        }
    }
    if ports.is_empty() && list(&rule["ports"]).next().is_some() {
        return None;
    }
    let found: BTreeSet<Ipv4Addr> =
        pods(objects).filter(|(pod, body, _)| by_selector(pod, body)).map(|it| it.2).collect();
    let block = |text: &Value| text.as_str().expect("text").parse().expect("a block");
    let blocks = list(peers).filter(|peer| !peer["ipBlock"].is_null()).map(|peer| {
        let except = list(&peer["ipBlock"]["except"]).map(block).collect();
        (block(&peer["ipBlock"]["cidr"]), except)
    });
    let peers = NetPeers { addresses: found.into_iter().collect(), blocks: blocks.collect() };
    Some(NetRule { peers: (!anybody).then_some(peers), ports })
}
