//! A strict JSON reader for request bodies.
//!
//! Reads bytes from outside into a [`Value`]; duplicate keys are reported with their path, the
//! last one wins. Refusals use the words of Go's `encoding/json`, which clients see. Nesting and
//! the number of values are bounded, so a small body cannot become a large tree. As in Go, bytes
//! in a string that are not UTF-8 become U+FFFD.

use serde_json::{Map, Number, Value};

use super::issue::{FieldIssue, Issues};
use crate::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};

/// Reads one JSON value.
///
/// # Errors
/// What is wrong, worded as Go's `encoding/json`.
pub fn decode_json(bytes: &[u8]) -> Result<(Value, Vec<FieldIssue>), String> {
    let mut reader = Reader {
        bytes,
        at: 0,
        depth: 0,
        values: 0,
        path: String::new(),
        issues: Issues::default(),
    };
    reader.space();
    let value = reader.value()?;
    reader.space();
    if reader.at < bytes.len() {
        return Err(reader.unexpected("after top-level value"));
    }
    Ok((value, reader.issues.list))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
    path: String,
    issues: Issues,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Value, String> {
        self.values += 1;
        if self.values > JSON_VALUES_MAX {
            return Err(format!("more than {JSON_VALUES_MAX} values"));
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value, String>,
    ) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > JSON_DEPTH_MAX {
            return Err("exceeded max depth".into());
        }
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut map = Map::new();
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(self.unexpected("after object key"));
            }
            let mark = self.path.len();
            if mark > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if map.contains_key(&key) {
                self.issues.duplicate(&self.path);
            }
            self.space();
            let value = self.value()?;
            self.path.truncate(mark);
            map.insert(key, value);
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(map));
            }
            if !self.take(b',') {
                return Err(self.unexpected("after object key:value pair"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut list = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Value::Array(list));
        }
        loop {
            let mark = self.path.len();
            self.path.push_str(&format!("[{}]", list.len()));
            self.space();
            let value = self.value()?;
            self.path.truncate(mark);
            list.push(value);
            self.space();
            if self.take(b']') {
                return Ok(Value::Array(list));
            }
            if !self.take(b',') {
                return Err(self.unexpected("after array element"));
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.unexpected("in string literal"));
            };
            match byte {
                b'"' => {
                    self.at += 1;
                    let text = String::from_utf8(text);
                    return Ok(text.unwrap_or_else(|bad| {
                        String::from_utf8_lossy(bad.as_bytes()).into_owned()
                    }));
                }
                b'\\' => {
                    self.at += 1;
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return Err(self.unexpected("in string literal")),
                _ => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(character)
    }

    /// After `\u`: one code unit, or a pair of surrogates; a lone surrogate is U+FFFD.
    fn unicode(&mut self) -> Result<char, String> {
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) {
            return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
        }
        let mark = self.at;
        if self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            self.at = mark;
        }
        Ok('\u{fffd}')
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| (byte as char).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, String> {
        for expected in word.bytes() {
            if !self.take(expected) {
                let place = format!("in literal {word} (expecting {})", quoted(expected as char));
                return Err(self.unexpected(&place));
            }
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, String> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits("in numeric literal")?;
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        let integer = if whole && text != "-0" {
            let signed = text.parse::<i64>().ok().map(Number::from);
            signed.or_else(|| text.parse::<u64>().ok().map(Number::from))
        } else {
            None
        };
        let number = integer.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64));
        number.map(Value::Number).ok_or_else(|| {
            format!("json: cannot unmarshal number {text} into Go value of type float64")
        })
    }

    fn digits(&mut self, place: &str) -> Result<(), String> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected(place)) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, place: &str) -> String {
        match self.peek() {
            None => "unexpected end of JSON input".into(),
            // Go quotes the byte as if it were a character of its own.
            Some(byte) => format!("invalid character {} {place}", quoted(byte as char)),
        }
    }
}

fn quoted(character: char) -> String {
    match character {
        '\'' => "'\\''".into(),
        '"' => "'\"'".into(),
        '\\' => "'\\\\'".into(),
        '\n' => "'\\n'".into(),
        '\r' => "'\\r'".into(),
        '\t' => "'\\t'".into(),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => format!("'\\x{:02x}'", c as u32),
        c if (0x80..0xa0).contains(&(c as u32)) => format!("'\\u{:04x}'", c as u32),
        c => format!("'{c}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], expected: Result<&str, &str>) {
        let read = decode_json(text).map(|(value, _)| value.to_string());
        assert_eq!(read.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn values_and_refusals() {
        check(b" {\"a\": [1, -2.5, true, null, \"x\"]} ", Ok("{\"a\":[1,-2.5,true,null,\"x\"]}"));
        check(b"18446744073709551615", Ok("18446744073709551615"));
        check(br#""\u00e9\ud83d\ude00\ud800\n\/""#, Ok("\"\u{e9}\u{1f600}\u{fffd}\\n/\""));
        check(b"\"\xff\"", Ok("\"\u{fffd}\""));
        check(b"", Err("unexpected end of JSON input"));
        check(b"{\"a\":", Err("unexpected end of JSON input"));
        check(b"{a:1}", Err("invalid character 'a' looking for beginning of object key string"));
        check(b"{\"a\" 1}", Err("invalid character '1' after object key"));
        check(b"{\"a\":1 2}", Err("invalid character '2' after object key:value pair"));
        check(b"[1 2]", Err("invalid character '2' after array element"));
        check(b"[1,]", Err("invalid character ']' looking for beginning of value"));
        check(b"1 x", Err("invalid character 'x' after top-level value"));
        check(b"01", Err("invalid character '1' after top-level value"));
        check(b"-", Err("unexpected end of JSON input"));
        check(b"1.x", Err("invalid character 'x' after decimal point in numeric literal"));
        check(b"nul!", Err("invalid character '!' in literal null (expecting 'l')"));
        check(b"\"\n\"", Err("invalid character '\\n' in string literal"));
        check(b"\"\\q\"", Err("invalid character 'q' in string escape code"));
        check(b"\"\\u12g4\"", Err("invalid character 'g' in \\u hexadecimal character escape"));
        check(b"1e999", Err("json: cannot unmarshal number 1e999 into Go value of type float64"));
        check(b"k8s\0", Err("invalid character 'k' looking for beginning of value"));
    }

    #[test]
    fn duplicates_are_named_and_the_last_wins() {
        let text = br#"{"data":{"x":"1","x":"2"},"spec":{"c":[{},{"n":1,"n":2,"n":3}]}}"#;
        let (value, issues) = decode_json(text).unwrap();
        let texts: Vec<String> = issues.iter().map(ToString::to_string).collect();
        let third = "duplicate field \"spec.c[1].n\"";
        assert_eq!(texts, ["duplicate field \"data.x\"", third, third]);
        assert_eq!(value["spec"]["c"][1]["n"], 3);
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(decode_json(&deep(JSON_DEPTH_MAX)).is_ok());
        check(&deep(JSON_DEPTH_MAX + 1), Err("exceeded max depth"));
        check(&vec![b'['; 3_000_000], Err("exceeded max depth"));
        let many = format!("[{}0]", "0,".repeat(JSON_VALUES_MAX));
        assert!(decode_json(many.as_bytes()).is_err());
        let duplicates = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(5000));
        let (_, issues) = decode_json(duplicates.as_bytes()).unwrap();
        assert_eq!(issues.len(), crate::limits::FIELD_ISSUES_MAX);
    }
}
