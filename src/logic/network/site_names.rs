//! Names of load balancers on the site: `<service>.local`, for people whose machines speak mDNS.
//!
//! Input: the network. Output: name and addresses. A name belongs to the Service of that name in the
//! namespace `default`, else to the first by namespace; the others are `<service>-<namespace>.local`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::limits::{LABEL_BYTES_MAX, SITE_NAME_ADDRESSES_MAX, SITE_NAMES_MAX};
use model::network::{NetService, NetState};

/// Names, without `.local`, and the addresses that they stand for.
pub type SiteNames = BTreeMap<String, Vec<Ipv4Addr>>;

/// The names of all Services that have an address on the site.
pub fn site_names(state: &NetState) -> SiteNames {
    let mut services: Vec<&NetService> = state
        .services
        .values()
        .map(AsRef::as_ref)
        .filter(|it| !it.load_balancer.is_empty())
        .collect();
    services.sort_by_key(|it| (it.namespace != "default", &it.namespace, &it.name));
    let mut names = SiteNames::new();
    for service in services {
        if names.len() == SITE_NAMES_MAX {
            break;
        }
        let long = || format!("{}-{}", service.name, service.namespace);
        let free = [service.name.clone(), long()]
            .into_iter()
            .find(|name| name.len() <= LABEL_BYTES_MAX && !names.contains_key(name));
        let Some(name) = free else { continue };
        let addresses = service.load_balancer.iter().copied();
        names.insert(name, addresses.take(SITE_NAME_ADDRESSES_MAX).collect());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(services: &[(&str, &str, u8)]) -> NetState {
        let mut state = NetState::default();
        for (namespace, name, address) in services {
            let service = NetService {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                load_balancer: match address {
                    0 => Vec::new(),
                    last => vec![[10, 0, 0, *last].into()],
                },
                ..NetService::default()
            };
            state.services.insert(format!("{namespace}/{name}").into(), service.into());
        }
        state
    }

    #[test]
    fn a_name_is_given_once() {
        let names = site_names(&state(&[
            ("apps", "web", 1),
            ("default", "web", 2),
            ("shop", "web", 3),
            ("shop", "db", 0),
            ("shop", "api", 4),
        ]));
        let expected = [("api", 4), ("web", 2), ("web-apps", 1), ("web-shop", 3)];
        let expected =
            expected.map(|(name, last)| (name.to_owned(), vec![[10, 0, 0, last].into()]));
        assert_eq!(names, SiteNames::from(expected));
    }

    #[test]
    fn a_name_that_is_no_label_is_left_out() {
        let long = "a".repeat(63);
        let names = site_names(&state(&[("apps", &long, 1), ("default", &long, 2)]));
        assert_eq!(names.len(), 1);
        let many: Vec<String> =
            (0..SITE_NAMES_MAX + 9).map(|number| format!("s{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| ("default", name.as_str(), 1)).collect();
        assert_eq!(site_names(&state(&many)).len(), SITE_NAMES_MAX);
    }
}
