//! Faults of endpoints and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::container::{PROTOCOLS, one_of, push};
use super::error::{Faults, FieldError};
use super::meta;
use super::names;
use super::read::{list, number, text};
use super::service::special_address;

/// Endpoints of a slice, and addresses of an endpoint.
const SLICE_ENDPOINTS_MAX: usize = 1_000;
const ENDPOINT_ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;

/// Faults of an Endpoints object beyond its metadata.
pub(super) fn endpoints(endpoints: &Value, errors: &mut Faults) {
    for (index, subset) in list(endpoints, "subsets").iter().enumerate() {
        let field = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|name| list(subset, name).is_empty()) {
            let sentence = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&field, sentence));
        }
        for name in lists {
            for (at, address) in list(subset, name).iter().enumerate() {
                let field = format!("{field}.{name}[{at}].ip");
                let word = text(address, "ip");
                match word.parse::<IpAddr>() {
                    Err(_) => push(errors, &field, word, names::ip(word)),
                    Ok(parsed) => special_address(word, parsed, &field, errors),
                }
            }
        }
        let ports = list(subset, "ports");
        for (at, port) in ports.iter().enumerate() {
            let field = format!("{field}.ports[{at}]");
            match text(port, "name") {
                "" if ports.len() > 1 => {
                    errors.push(FieldError::required(format!("{field}.name"), ""));
                }
                "" => {}
                name => push(errors, &format!("{field}.name"), name, names::label(name)),
            }
            let n = number(port, "port").unwrap_or(0);
            push(errors, &format!("{field}.port"), n, names::port_number(n));
            one_of(port, "protocol", &PROTOCOLS, &field, errors);
        }
    }
}

/// Faults of an EndpointSlice beyond its metadata.
pub(super) fn endpoint_slice(slice: &Value, errors: &mut Faults) {
    let family = text(slice, "addressType");
    address_type(family, errors);
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        let count = endpoints.len();
        errors.push(FieldError::too_many("endpoints", count, SLICE_ENDPOINTS_MAX));
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(endpoint, family, &format!("endpoints[{index}]"), errors);
        }
    }
    slice_ports(list(slice, "ports"), errors);
}

fn address_type(family: &str, errors: &mut Faults) {
    let families = ["FQDN", "IPv4", "IPv6"];
    match family {
        "" => errors.push(FieldError::required("addressType", "")),
        word if families.contains(&word) => {}
        word => errors.push(FieldError::not_supported("addressType", word, &families)),
    }
}

fn slice_endpoint(endpoint: &Value, family: &str, field: &str, errors: &mut Faults) {
    let addresses = list(endpoint, "addresses");
    let here = format!("{field}.addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&here, "must contain at least 1 address"));
    } else if addresses.len() > ENDPOINT_ADDRESSES_MAX {
        let count = addresses.len();
        errors.push(FieldError::too_many(&here, count, ENDPOINT_ADDRESSES_MAX));
    }
    for (index, address) in addresses.iter().enumerate() {
        let field = format!("{here}[{index}]");
        let word = address.as_str().unwrap_or("");
        let parsed = word.parse::<IpAddr>();
        match family {
            "FQDN" => push(errors, &field, word, names::subdomain(word)),
            "IPv4" | "IPv6" => {
                let fits = parsed.as_ref().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
                if !fits {
                    let sentence = format!("must be a valid {family} address");
                    errors.push(FieldError::invalid(&field, word, sentence));
                }
                match parsed {
                    Ok(parsed) => special_address(word, parsed, &field, errors),
                    Err(_) => {
                        let sentence = "must be a valid IP address";
                        errors.push(FieldError::invalid(field, word, sentence));
                    }
                }
            }
            _ => {}
        }
    }
    let node = text(endpoint, "nodeName");
    if !node.is_empty() {
        push(errors, &format!("{field}.nodeName"), node, names::subdomain(node));
    }
    meta::labels(
        endpoint.get("deprecatedTopology"),
        &format!("{field}.deprecatedTopology"),
        errors,
    );
}

fn slice_ports(ports: &[Value], errors: &mut Faults) {
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(FieldError::too_many("ports", ports.len(), SLICE_PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            push(errors, &format!("{field}.name"), name, names::label(name));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        if let Some(n) = number(port, "port") {
            push(errors, &format!("{field}.port"), n, names::port_number(n));
        }
        one_of(port, "protocol", &PROTOCOLS, &field, errors);
    }
}
