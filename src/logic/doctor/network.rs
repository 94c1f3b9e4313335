//! Ports, routes, firewalls, multicast.

use model::network::Ipv4Block;

use super::{Facts, Finding, PortUse, RouteFact};

/// What other programs of ours are called.
const OURS: &str = "kumquat";

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = ports(&facts.ports);
    findings.extend(routes(facts));
    findings.extend(legacy(facts));
    findings.extend(firewalls(facts));
    findings.extend(multicast(facts));
    findings
}

fn ports(all: &[PortUse]) -> Vec<Finding> {
    const CHECK: &str = "ports";
    let mut findings = Vec::new();
    let mut fine = Vec::new();
    for it in all {
        let name = format!("{}/{}", it.port, it.protocol);
        match &it.owner {
            Some(owner) if owner != OURS && !it.shared => {
                let what = format!("port {name} ({}) is taken by {owner}", it.purpose);
                let stop = format!("stop {owner}");
                let remedy = match it.flag {
                    "" => stop,
                    flag => format!("{stop}, or start kumquat with another {flag}"),
                };
                findings.push(Finding::fail(CHECK, what, remedy));
            }
            Some(owner) if owner != OURS => fine.push(format!("{name} is shared with {owner}")),
            Some(_) => fine.push(format!("{name} is kumquat's")),
            None => fine.push(format!("{name} is free")),
        }
    }
    if findings.is_empty() && !fine.is_empty() {
        findings.push(Finding::ok(CHECK, fine.join(", ")));
    }
    findings
}

fn overlap(one: &Ipv4Block, other: &Ipv4Block) -> bool {
    one.covers(other) || other.covers(one)
}

fn routes(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "routes";
    let ranges = [
        ("pods", "--pod-range", facts.pod_range),
        ("services", "--service-range", facts.service_range),
    ];
    let mut findings = Vec::new();
    for (what, flag, range) in ranges {
        let Some(range) = range else { continue };
        for RouteFact { block, interface } in
            facts.routes.iter().filter(|it| overlap(&it.block, &range))
        {
            findings.push(Finding::fail(
                CHECK,
                format!("the route to {block} by {interface} overlaps with the addresses of {what} ({range})"),
                format!("found the cluster with another {flag}, such as `kumquat up {flag} 10.142.0.0/16` (it is fixed from then on), or change that network"),
            ));
        }
    }
    if findings.is_empty() {
        let way = match facts.default_route {
            true => "there is a default route",
            false => {
                "there is no default route, which is fine: only images from the internet need one"
            }
        };
        findings
            .push(Finding::ok(CHECK, format!("no route overlaps with pods or services; {way}")));
    }
    findings
}

fn legacy(facts: &Facts) -> Option<Finding> {
    facts.legacy_tables.iter().any(|table| table == "filter").then(|| {
        Finding::warn(
            "legacy-iptables",
            "a program uses legacy iptables (table filter): when its FORWARD policy is DROP, packets of \
             pods are dropped, and kumquat cannot see or mend that",
            "look at `iptables-legacy -S FORWARD`; when it begins with `-P FORWARD DROP`, run \
             `iptables-legacy -P FORWARD ACCEPT`, or let that program use nftables: `update-alternatives \
             --set iptables /usr/sbin/iptables-nft` and reboot",
        )
    })
}

fn firewalls(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "firewall";
    let of = |protocol: &str| {
        let ports = facts.ports.iter().filter(|it| it.protocol == protocol);
        ports.map(|it| it.port.to_string()).collect::<Vec<_>>()
    };
    let (tcp, udp) = (of("tcp"), of("udp"));
    let warning = |name: &String| {
        let remedy = match name.as_str() {
            "ufw" => format!(
                "ufw allow {}/tcp; ufw allow {}/udp; ufw default allow routed",
                tcp.join(","),
                udp.join(",")
            ),
            "firewalld" => {
                let add = |ports: &[String], protocol: &str| -> String {
                    ports.iter().map(|port| format!(" --add-port={port}/{protocol}")).collect()
                };
                format!(
                    "firewall-cmd --permanent{}{}; firewall-cmd --permanent --zone=trusted \
                     --add-source={}; firewall-cmd --reload",
                    add(&tcp, "tcp"),
                    add(&udp, "udp"),
                    facts
                        .pod_range
                        .map_or_else(|| "10.42.0.0/16".to_owned(), |range| range.to_string()),
                )
            }
            _ => format!(
                "see that /etc/nftables.conf accepts tcp {{ {} }} and udp {{ {} }} in `input`, and \
                 packets of pods in `forward`",
                tcp.join(", "),
                udp.join(", ")
            ),
        };
        let what =
            format!("{name} is switched on: it may keep other boards out, and packets of pods");
        Finding::warn(CHECK, what, remedy)
    };
    facts.firewalls.iter().map(warning).collect()
}

fn multicast(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "mdns";
    // Nothing was looked at.
    if facts.ports.is_empty() {
        return None;
    }
    Some(match facts.multicast_interfaces.as_slice() {
        [] => Finding::warn(
            CHECK,
            "no interface that is up passes multicast: this board does not find its cluster over mDNS",
            "plug in the cable, or join with `kumquat up --peers HOST`",
        ),
        some => Finding::ok(CHECK, format!("multicast passes on {}", some.join(", "))),
    })
}
