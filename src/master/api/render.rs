//! Writes JSON bytes in the form that the client wants: as they are, indented, or as YAML.

use serde_json::Value;

/// Indents minified JSON by two spaces as Go's `MarshalIndent` does; keys keep their order.
///
/// Works on a stream: state is kept between calls, so a long answer is never whole in memory.
#[derive(Debug, Default)]
pub(super) struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last byte outside strings opened a container whose first element has not come.
    opened: bool,
}

impl Indenter {
    /// Indents the next bytes of the document.
    pub(super) fn feed(&mut self, json: &[u8], out: &mut Vec<u8>) {
        for &byte in json {
            if self.in_string {
                out.push(byte);
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            self.structure(byte, out);
        }
    }

    fn structure(&mut self, byte: u8, out: &mut Vec<u8>) {
        if matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
            return;
        }
        let opened = std::mem::take(&mut self.opened);
        if matches!(byte, b'}' | b']') {
            self.depth = self.depth.saturating_sub(1);
            if !opened {
                self.new_line(out);
            }
        } else if opened {
            self.new_line(out);
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.opened = true;
            }
            b',' => self.new_line(out),
            b':' => out.push(b' '),
            b'"' => self.in_string = true,
            _ => {}
        }
    }

    fn new_line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

/// The whole document, indented.
pub(super) fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    Indenter::default().feed(json, &mut out);
    out
}

/// The document as YAML; bytes that are not JSON (which the store never holds) come back as a
/// quoted text.
pub(super) fn yaml(json: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(json)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(json).into_owned()));
    serde_norway::to_string(&value).map(String::into_bytes).unwrap_or_default()
}

/// Whether the object is a `Status` (an answer about a request, not an object of the store).
pub(super) fn is_status(json: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    serde_json::from_slice::<Kind<'_>>(json)
        .is_ok_and(|object| object.kind.as_deref() == Some("Status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go_does() {
        let json = br#"{"a":{},"b":[],"c":[1,{"d":"x{,\"\\"}],"e":null}"#;
        let expected = "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \
                        \"x{,\\\"\\\\\"\n    }\n  ],\n  \"e\": null\n}";
        assert_eq!(String::from_utf8(pretty(json)).unwrap(), expected);
        for cut in 0..json.len() {
            let mut indenter = Indenter::default();
            let mut out = Vec::new();
            indenter.feed(&json[..cut], &mut out);
            indenter.feed(&json[cut..], &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn yaml_of_a_status() {
        let text = String::from_utf8(yaml(br#"{"code":404,"details":{"name":"y"},"metadata":{}}"#));
        assert_eq!(text.unwrap(), "code: 404\ndetails:\n  name: y\nmetadata: {}\n");
    }
}
