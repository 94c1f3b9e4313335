//! The query string, and the option kinds of `meta.k8s.io` that it carries.

use model::status::ApiError;
use serde_json::json;

/// Decoded pairs in order; the first of a name counts, as in the real server's conversions.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and percent-decodes; pairs that cannot be decoded are dropped, as Go does.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(name, true)?, decode(value, true)?))
                })
                .collect(),
        )
    }

    /// The first value of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value, or nothing.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// All values of that name.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// A boolean as `Convert_Slice_string_To_bool` reads it: present is true unless it says not.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|text| !text.eq_ignore_ascii_case("false") && text != "0")
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// 400 with the words of Go's `strconv`.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let why = if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
                "value out of range"
            } else {
                "invalid syntax"
            };
            ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }
}

/// Percent-decodes; `None` for bad escapes or text that is not UTF-8.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push((high << 4 | low) as u8);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// One field of an option kind that is not valid.
pub(super) struct OptionProblem {
    /// `dryRun`, `fieldManager`, ...
    pub(super) field: &'static str,
    /// `FieldValueNotSupported`, ...
    pub(super) reason: &'static str,
    /// `Unsupported value: ...`.
    pub(super) text: String,
}

/// 422 for an option kind of `meta.k8s.io`, as the real server words it.
pub(super) fn invalid_options(kind: &str, problems: &[OptionProblem]) -> ApiError {
    invalid("meta.k8s.io", kind, problems)
}

/// 422 for the options of a log request: a kind of the core group.
pub(super) fn invalid_pod_log_options(problems: &[OptionProblem]) -> ApiError {
    invalid("", "PodLogOptions", problems)
}

fn invalid(group: &str, kind: &str, problems: &[OptionProblem]) -> ApiError {
    let texts: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.field, p.text)).collect();
    let all = match texts.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", texts.join(", ")),
    };
    let qualified = model::status::qualified(group, kind);
    let mut error = ApiError::new(422, "Invalid", format!("{qualified} \"\" is invalid: {all}"));
    let causes: Vec<_> = problems
        .iter()
        .map(|p| json!({"reason": p.reason, "message": p.text, "field": p.field}))
        .collect();
    error.details = json!({"kind": kind, "causes": causes});
    if !group.is_empty() {
        error.details["group"] = group.into();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("a=1&b=x%20y+z&c&bad=%zz&a=2&d=%7B%22k%22%7D");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("a"), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.get("c"), Some(""));
        assert_eq!(query.get("bad"), None);
        assert_eq!(query.get("d"), Some("{\"k\"}"));
    }

    #[test]
    fn flags_and_integers() {
        let query =
            Query::parse("w&t=true&f=False&z=0&o=1&n=12&m=-3&x=abc&big=99999999999999999999");
        let flags = ["w", "t", "f", "z", "o", "absent"].map(|name| query.flag(name));
        let expected = [Some(true), Some(true), Some(false), Some(false), Some(true), None];
        assert_eq!(flags, expected);
        assert_eq!(query.integer("n"), Ok(Some(12)));
        assert_eq!(query.integer("m"), Ok(Some(-3)));
        assert_eq!(query.integer("absent"), Ok(None));
        let text = |name| query.integer(name).expect_err("not an integer").message;
        assert_eq!(text("x"), "strconv.ParseInt: parsing \"abc\": invalid syntax");
        assert!(text("big").ends_with("value out of range"));
    }
}
