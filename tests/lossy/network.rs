//! Random Services and EndpointSlices, and whether every board knows the same of them as the master.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::network::{NetState, differences};
use serde_json::{Value, json};

use crate::loops::Loops;
use crate::loss::Random;
use crate::world::Watched;

const SERVICES: u64 = 8;
/// Slices of a service; their endpoints are the test's own, nobody else writes them.
const SLICES: u64 = 2;
/// Operations come this close together on the average.
const PAUSE_MILLIS: u64 = 20;

/// Creates, changes and deletes Services and slices.
pub(crate) async fn churn(loops: &Loops, count: usize, mut random: Random) {
    let mut there: BTreeSet<(&str, String)> = BTreeSet::new();
    for _ in 0..count {
        let number = random.below(SERVICES);
        let (kind, object) = match random.chance(25) {
            true => ("/services", service(number, &mut random)),
            false => ("discovery.k8s.io/endpointslices", slice(number, &mut random)),
        };
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let exists = there.contains(&(kind, name.clone()));
        if exists && random.chance(20) {
            loops.delete(kind, "default", &name).await;
            there.remove(&(kind, name));
        } else if !exists {
            loops.create(kind, "default", object).await;
            there.insert((kind, name));
        } else if kind != "/services" {
            loops.update(kind, "default", object).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(2 * PAUSE_MILLIS))).await;
    }
    assert!(!there.is_empty(), "something is left to be known");
}

fn service(number: u64, random: &mut Random) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "default" },
        "spec": {
            "sessionAffinity": if random.chance(50) { "ClientIP" } else { "None" },
            "ports": [{ "name": "http", "port": 80 + random.below(9) }],
        },
    })
}

fn slice(number: u64, random: &mut Random) -> Value {
    let endpoints: Vec<Value> = (0..1 + random.below(60))
        .map(|at| {
            json!({ "addresses": [format!("10.42.{number}.{}", 1 + at)],
                "conditions": { "ready": random.chance(90) } })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{number}-{}", random.below(SLICES)), "namespace": "default",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
        },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// What a board does not know as the master does, in words; none when all is well.
pub(crate) fn difference(loops: &Loops, boards: &BTreeMap<String, impl Watched>) -> Option<String> {
    let wanted = loops.views.net().state();
    for (name, board) in boards {
        let known = board.network();
        if known != wanted {
            return Some(format!("{name} knows another network: {}", words(&known, &wanted)));
        }
    }
    None
}

fn words(known: &NetState, wanted: &NetState) -> String {
    let mut keys = vec![format!("revision {} instead of {}", known.revision, wanted.revision)];
    differences(&known.boards, &wanted.boards, |key, old, new| {
        if old != new {
            keys.push(key.to_string());
        }
    });
    differences(&known.services, &wanted.services, |key, old, new| {
        if old != new {
            keys.push(key.to_string());
        }
    });
    keys.join(", ")
}
