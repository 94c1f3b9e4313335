//! Where an external broker is: `mqtts://host:port`, `mqtt://user:password@host`.

use std::fmt;
use std::str::FromStr;

/// Address of a broker, and what it knows this program by.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS.
    pub tls: bool,
    /// User name and password, when the broker asks for them.
    pub user: Option<(String, String)>,
}

/// Text that is no address of a broker.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the broker as mqtts://HOST:PORT or mqtt://HOST:PORT, with USER:PASSWORD@ before HOST if need be"
)]
pub struct BadUrl;

impl FromStr for BrokerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtts", rest)) => (true, rest),
            Some(("mqtt", rest)) => (false, rest),
            _ => return Err(BadUrl),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((name.to_owned(), password.to_owned())), place)
            }
            None => (None, rest),
        };
        let usual = if tls { 8883 } else { 1883 };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(BadUrl);
        let (host, port) = match place.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((host, "")) => (host, usual),
            Some((host, port)) => (host, number(port.strip_prefix(':').ok_or(BadUrl)?)?),
            None => match place.split_once(':') {
                Some((host, port)) => (host, number(port)?),
                None => (place, usual),
            },
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
            return Err(BadUrl);
        }
        Ok(Self { host: host.to_owned(), port, tls, user })
    }
}

impl fmt::Display for BrokerUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_brokers() {
        let check = |text: &str, expected: Option<&str>| {
            let read = text.parse::<BrokerUrl>().ok().map(|url| url.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        };
        check("mqtts://broker.local:8884", Some("mqtts://broker.local:8884"));
        check("mqtt://10.0.0.9", Some("mqtt://10.0.0.9:1883"));
        check("mqtts://10.0.0.9/", Some("mqtts://10.0.0.9:8883"));
        check("mqtt://[fd00::1]:1884", Some("mqtt://[fd00::1]:1884"));
        for bad in
            ["", "10.0.0.9:1883", "http://a", "mqtt://", "mqtt://a:0", "mqtt://a:x", "mqtt://a b"]
        {
            check(bad, None);
        }
        let url: BrokerUrl = "mqtt://kumquat:s@cret@a:1".parse().expect("an address");
        assert_eq!(url.user, Some(("kumquat".to_owned(), "s@cret".to_owned())));
        assert!(!format!("{url} {url:?}").contains("cret"), "a password is not shown");
    }
}
