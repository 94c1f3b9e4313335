//! Continue tokens: where the next page of a LIST starts, and the version of the first page.
//!
//! The same form as `k8s.io/apiserver/pkg/storage/continue.go`: unpadded base64url of a small JSON
//! object; refused with the same words. Clients must not look inside.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::ids::Version;
use model::status::ApiError;
use serde_json::{Value, json};

const FORMAT: &str = "meta.k8s.io/v1";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The version of the list's first page.
    pub version: Version,
    /// Namespace and name of the last object of the page before.
    pub after: (String, String),
    /// Objects on the pages before: what remains is a hint, and counting anew would read all.
    pub shown: u64,
}

impl Token {
    pub(super) fn encode(&self) -> String {
        let (namespace, name) = &self.after;
        let start = format!("{namespace}/{name}\0");
        let json =
            json!({ "v": FORMAT, "rv": self.version.0, "start": start, "shown": self.shown });
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        Self::read(text).map_err(|why| {
            ApiError::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => {
                format!("illegal base64 data at input byte {at}")
            }
            _ => format!("illegal base64 data at input byte {}", text.len()),
        })?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| match bytes.first() {
            None => "unexpected end of JSON input".to_owned(),
            Some(b'{') => "unexpected end of JSON input".to_owned(),
            Some(first) => {
                format!("invalid character '{}' looking for beginning of value", char::from(*first))
            }
        })?;
        if value["v"] != FORMAT {
            let version = value["v"].as_str().unwrap_or_default();
            return Err(format!("server does not recognize this encoded version {version:?}"));
        }
        let version = value["rv"].as_u64().unwrap_or_default();
        if version == 0 {
            return Err(format!("incorrect encoded start resourceVersion (version {FORMAT})"));
        }
        let start = value["start"].as_str().unwrap_or_default().trim_end_matches('\0');
        let Some((namespace, name)) = start.split_once('/').filter(|(_, name)| !name.is_empty())
        else {
            return Err(format!("encoded start key empty (version {FORMAT})"));
        };
        let shown = value["shown"].as_u64().unwrap_or_default();
        let after = (namespace.to_owned(), name.to_owned());
        Ok(Self { version: Version(version), after, shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back() {
        for (namespace, name) in [("", "pi-3"), ("default", "web-0")] {
            let after = (namespace.into(), name.into());
            let token = Token { version: Version(7 << 20), after, shown: 3 };
            assert_eq!(Token::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn damaged_tokens_are_refused_or_read_never_worse() {
        let token =
            Token { version: Version(7 << 20), after: ("ns".into(), "web-0".into()), shown: 9 };
        let good = token.encode();
        let mut refused = 0;
        for at in 0..good.len() {
            for bit in 0..7 {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let text = String::from_utf8(bytes).expect("seven bits are ASCII");
                match Token::decode(&text) {
                    Ok(read) => assert!(!read.after.1.is_empty() && read.version.0 > 0),
                    Err(error) => {
                        assert_eq!(error.code, 400);
                        refused += 1;
                    }
                }
            }
            assert!(Token::decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(refused > good.len(), "only {refused} of {} were refused", good.len() * 7);
    }

    #[test]
    fn garbage_is_refused_as_a_real_server_does() {
        let encoded = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for (text, why) in [
            ("abc", "invalid character 'i' looking for beginning of value"),
            ("!", "illegal base64 data at input byte 0"),
            (&encoded("{}"), "server does not recognize this encoded version \"\""),
            (
                &encoded(r#"{"v":"meta.k8s.io/v1","start":"/a"}"#),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                &encoded(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
        ] {
            let error = Token::decode(text).expect_err(text);
            assert_eq!(
                error.message,
                format!("invalid continue token: continue key is not valid: {why}")
            );
            assert_eq!(error.code, 400);
        }
    }
}
