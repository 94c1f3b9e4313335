//! What a client asks for: streams, ports, and the protocol to carry them.

use http::HeaderMap;
use http::header::{
    AsHeaderName, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use model::limits::FORWARD_PORTS_MAX;
use model::status::ApiError;
use model::wire::StdioV1;

use super::STREAM_PROTOCOL;
use crate::master::api::query::Query;

/// What is spoken on an upgraded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Exec and attach, with the end of input.
    V5,
    /// Exec and attach with a Status at the end; port-forward over plain WebSocket.
    V4,
    /// Port-forward over SPDY.
    Forward,
    /// The same in WebSocket messages.
    TunnelledForward,
}

impl Protocol {
    /// Its name on the wire.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::Forward => "portforward.k8s.io",
            Self::TunnelledForward => "SPDY/3.1+portforward.k8s.io",
        }
    }
}

/// How a client wants its connection upgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// RFC 6455.
    WebSocket { key: String, protocol: Protocol },
    /// SPDY/3.1.
    Spdy { protocol: Protocol },
    /// To something that is not spoken here.
    None,
}

impl Way {
    /// For exec and attach; `None` for a request that wants no upgrade.
    pub(super) fn of_process(headers: &HeaderMap) -> Option<Self> {
        Self::of(headers, &[Protocol::V5, Protocol::V4], &[Protocol::V4])
    }

    /// For port-forward.
    pub(super) fn of_forward(headers: &HeaderMap) -> Option<Self> {
        Self::of(headers, &[Protocol::TunnelledForward, Protocol::V4], &[Protocol::Forward])
    }

    /// The best protocol that both know; the lists have the best first.
    fn of(headers: &HeaderMap, websocket: &[Protocol], spdy: &[Protocol]) -> Option<Self> {
        if !words(headers, CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        let wanted = headers.get(UPGRADE)?.to_str().ok()?;
        let chosen = |known: &[Protocol], header: http::HeaderName| {
            let offered: Vec<&str> = words(headers, header).collect();
            known.iter().copied().find(|protocol| offered.contains(&protocol.name()))
        };
        Some(if wanted.eq_ignore_ascii_case("websocket") {
            let version = words(headers, SEC_WEBSOCKET_VERSION).any(|version| version == "13");
            let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
            match (version, key, chosen(websocket, SEC_WEBSOCKET_PROTOCOL)) {
                (true, Some(key), Some(protocol)) => {
                    Self::WebSocket { key: key.to_owned(), protocol }
                }
                _ => Self::None,
            }
        } else if wanted.eq_ignore_ascii_case("SPDY/3.1") {
            match chosen(spdy, STREAM_PROTOCOL) {
                Some(protocol) => Self::Spdy { protocol },
                None => Self::None,
            }
        } else {
            Self::None
        })
    }
}

/// The words of a header's values, which commas separate.
fn words(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// `stdin`, `stdout`, `stderr` and `tty` of `PodExecOptions` and `PodAttachOptions`.
pub(super) fn stdio(query: &Query) -> Result<StdioV1, ApiError> {
    let flag = |name| query.flag(name).unwrap_or(false);
    let tty = flag("tty");
    let stdio = StdioV1 {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        // A terminal has one output.
        stderr: flag("stderr") && !tty,
        tty,
    };
    if stdio.stdin || stdio.stdout || stdio.stderr {
        return Ok(stdio);
    }
    Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
}

/// `ports` of `PodPortForwardOptions`, which only the plain WebSocket form uses.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let values = query.all("ports");
    let texts = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let mut ports = Vec::new();
    for text in texts {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        let bad = || ApiError::bad_request(format!("unable to parse {text:?} as a port"));
        ports.push(port.ok_or_else(bad)?);
        if ports.len() > FORWARD_PORTS_MAX {
            return Err(ApiError::bad_request(format!("more than {FORWARD_PORTS_MAX} ports")));
        }
    }
    match ports.is_empty() {
        true => Err(ApiError::bad_request("query parameter \"ports\" is required")),
        false => Ok(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let value = |value| http::HeaderValue::from_static(value);
        pairs
            .iter()
            .map(|(name, text)| (http::HeaderName::from_static(name), value(text)))
            .collect()
    }

    #[test]
    fn the_best_protocol_that_both_know() {
        let websocket = |offered: &'static str| {
            headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "k"),
                ("sec-websocket-protocol", offered),
            ])
        };
        let chosen = |protocol| Some(Way::WebSocket { key: "k".into(), protocol });
        let process = |offered| Way::of_process(&websocket(offered));
        let forward = |offered| Way::of_forward(&websocket(offered));
        assert_eq!(process("v4.channel.k8s.io, v5.channel.k8s.io"), chosen(Protocol::V5));
        assert_eq!(process("v4.channel.k8s.io,v3.channel.k8s.io"), chosen(Protocol::V4));
        assert_eq!(process("v3.channel.k8s.io"), Some(Way::None));
        assert_eq!(forward("v5.channel.k8s.io,v4.channel.k8s.io"), chosen(Protocol::V4));
        let tunnelled = chosen(Protocol::TunnelledForward);
        assert_eq!(forward("SPDY/3.1+portforward.k8s.io"), tunnelled);
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        assert_eq!(Way::of_process(&spdy), Some(Way::Spdy { protocol: Protocol::V4 }));
        assert_eq!(Way::of_forward(&spdy), Some(Way::None));
        assert_eq!(Way::of_process(&headers(&[("upgrade", "websocket")])), None);
        let other = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(Way::of_process(&other), Some(Way::None));
    }

    #[test]
    fn something_must_be_wanted_of_a_process() {
        let ask = |query| stdio(&Query::parse(query)).map_err(|error| error.message);
        let none = "you must specify at least 1 of stdin, stdout, stderr".to_owned();
        assert_eq!(ask("tty=true"), Err(none));
        let all = StdioV1 { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(ask("stdin=1&stdout=true&stderr=true&tty=true"), Ok(all));
    }

    #[test]
    fn ports_are_numbers() {
        let ask = |query| ports(&Query::parse(query)).map_err(|error| error.message);
        assert_eq!(ask("ports=80&ports=443,8080"), Ok(vec![80, 443, 8080]));
        for bad in ["", "ports=", "ports=0", "ports=x", "ports=65536"] {
            assert!(ask(bad).is_err(), "{bad}");
        }
        let many = format!("ports={}", vec!["1"; FORWARD_PORTS_MAX + 1].join(","));
        assert!(ask(&many).is_err());
    }
}
