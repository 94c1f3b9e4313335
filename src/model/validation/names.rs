//! What a name, label, port or key may look like, with the sentences of
//! `k8s.io/apimachinery/pkg/util/validation`.
//!
//! Each function returns every sentence that applies; none means the text is valid.

use crate::limits::{LABEL_BYTES_MAX, NAME_BYTES_MAX};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
    or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or \
    '-', start with an alphabetic character, and end with an alphanumeric character (e.g. \
    'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
    used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
    '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
    'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' \
    (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Longest name of a port.
const PORT_NAME_BYTES_MAX: usize = 15;

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let b = text.as_bytes();
    matches!((b.first(), b.last()), (Some(&first), Some(&last)) if lower_alnum(first) && lower_alnum(last))
        && b.iter().all(|&c| lower_alnum(c) || c == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified(text: &str) -> bool {
    let b = text.as_bytes();
    matches!((b.first(), b.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// An RFC 1123 subdomain: the name of most objects.
pub fn subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > NAME_BYTES_MAX {
        errors.push(too_long(NAME_BYTES_MAX));
    }
    if !is_subdomain(text) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

/// An RFC 1123 label: namespaces, containers, volumes.
pub fn label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !is_label(text) {
        errors.push(if is_subdomain(text) { "must not contain dots" } else { LABEL }.into());
    }
    errors
}

/// An RFC 1035 label: starts with a letter.
pub fn label_1035(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(LABEL_1035.into());
    }
    errors
}

/// A label or annotation key, finalizer, resource name: `[prefix/]name`.
pub fn qualified(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = text.split('/');
    let (first, second, more) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    if more.is_some() {
        return vec![format!(
            "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')"
        )];
    }
    let name = match second {
        None => first,
        Some(name) => {
            if first.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(subdomain(first).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > LABEL_BYTES_MAX {
        errors.push(format!("name part {}", too_long(LABEL_BYTES_MAX)));
    }
    if !is_qualified(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !text.is_empty() && !is_qualified(text) {
        errors.push(LABEL_VALUE.into());
    }
    errors
}

/// A name that fits into a path, the least that every object's name must do.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let banned = ["/", "%"].into_iter().filter(|c| text.contains(c));
    banned.map(|c| format!("may not contain '{c}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > NAME_BYTES_MAX {
        errors.push(too_long(NAME_BYTES_MAX));
    }
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(valid) {
        errors.push(CONFIG_KEY.into());
    }
    match text {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

/// The name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters \
         other than '='"
            .into(),
    ]
}

/// The name of a port, as IANA has it.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > PORT_NAME_BYTES_MAX {
        errors.push(too_long(PORT_NAME_BYTES_MAX));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errors
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A port number.
pub fn port_number(number: i64) -> Vec<String> {
    in_range(number, 1, 65_535)
}

/// A number between two others, both allowed.
pub fn in_range(number: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&number) {
        return Vec::new();
    }
    vec![format!("must be between {min} and {max}, inclusive")]
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![HEADER.into()]
}

/// A percentage, `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![PERCENT.into()]
}

/// An address of either family.
pub fn ip(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
}

/// A range of addresses, `10.42.0.0/24`.
pub fn cidr(text: &str) -> Vec<String> {
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        digits && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if valid {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_limits() {
        let check = |errors: Vec<String>, count: usize, what: &str| {
            assert_eq!(errors.len(), count, "{what}: {errors:?}");
        };
        let long = "a".repeat(64);
        check(subdomain("a.b-c.0"), 0, "subdomain");
        check(subdomain("a..b"), 1, "empty part");
        check(subdomain(&"a".repeat(254)), 1, "long subdomain");
        check(label("a.b"), 1, "dots");
        assert_eq!(label("a.b"), ["must not contain dots"]);
        check(label(&long), 1, "long label");
        check(label(""), 1, "empty label");
        check(label_1035("1a"), 1, "digit first");
        check(qualified("example.com/A_b.c"), 0, "qualified");
        check(qualified("/a"), 1, "no prefix");
        check(qualified("A/"), 3, "bad prefix, no name");
        check(qualified("a/b/c"), 1, "two slashes");
        check(label_value(""), 0, "empty value");
        check(label_value("-a"), 1, "hyphen first");
        check(path_segment("A_b"), 0, "path segment");
        check(path_segment("a/%"), 2, "slash and percent");
        check(config_key(".."), 1, "dots only");
        check(config_key(""), 1, "empty key");
        check(env_name("a b.c"), 0, "relaxed");
        check(env_name("é"), 1, "not ascii");
        check(port_name("http-1"), 0, "port");
        check(port_name("80"), 1, "no letter");
        check(port_name("a--b"), 1, "two hyphens");
        check(port_number(0), 1, "zero");
        check(percent("25%"), 0, "percent");
        check(percent("%"), 1, "no digits");
        check(cidr("10.0.0.0/8"), 0, "range");
        check(cidr("10.0.0.0/33"), 1, "range too narrow");
        check(ip("::1"), 0, "ip");
        check(ip("1.2.3"), 1, "short ip");
    }
}
