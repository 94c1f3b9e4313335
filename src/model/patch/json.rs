//! JSON patch (RFC 6902), as the library of the real server applies it: negative indexes count
//! from the end, `test` of an absent field against null holds.

use serde_json::Value;

use super::PatchError;
use crate::limits::{JSON_DEPTH_MAX, JSON_PATCH_COPY_BYTES_MAX, JSON_PATCH_OPS_MAX};

/// Applies the operations of a JSON patch in order.
///
/// # Errors
/// 400: not a list of operations. 413: too many of them, or too much copied. 422: one does not
/// apply, or a `test` fails.
pub fn json(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let Value::Array(ops) = patch else {
        let what = match patch {
            Value::Object(_) => "object",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            _ => "number",
        };
        let text = format!("json: cannot unmarshal {what} into Go value of type jsonpatch.Patch");
        return Err(PatchError::malformed(text));
    };
    if ops.len() > JSON_PATCH_OPS_MAX {
        let text = "The allowed maximum operations in a JSON patch is";
        return Err(PatchError::too_large(format!(
            "{text} {JSON_PATCH_OPS_MAX}, got {}",
            ops.len()
        )));
    }
    let mut copied_bytes = 0;
    for op in ops {
        if !op.is_object() {
            let text = "json: cannot unmarshal a value into Go value of type jsonpatch.Operation";
            return Err(PatchError::malformed(text));
        }
        apply(object, op, &mut copied_bytes)?;
    }
    Ok(())
}

fn apply(object: &mut Value, mut op: Value, copied_bytes: &mut usize) -> Result<(), PatchError> {
    let word = |name: &str| op.get(name).and_then(Value::as_str).map(str::to_owned);
    let kind = word("op").unwrap_or_default();
    let path = word("path").ok_or_else(|| bad("operation missing path field"))?;
    let path = pointer(&path)?;
    let from = word("from").map(|from| pointer(&from)).transpose()?;
    let from = from.ok_or_else(|| bad("operation missing from field"));
    let given = op.get_mut("value").map(Value::take);
    let value = || given.clone().ok_or_else(|| bad("operation missing value field"));
    match kind.as_str() {
        "add" => add(object, &path, value()?),
        "replace" => {
            let value = value()?;
            within_depth(&value, path.len())?;
            *find(object, &path)? = value;
            Ok(())
        }
        "remove" => remove(object, &path).map(drop),
        "move" => {
            let moved = remove(object, &from?)?;
            add(object, &path, moved)
        }
        "copy" => {
            let copy = find(object, &from?)?.clone();
            *copied_bytes += copy.to_string().len();
            if *copied_bytes > JSON_PATCH_COPY_BYTES_MAX {
                let text = "Unable to complete the copy, the accumulated size increase of copy is";
                return Err(PatchError::too_large(format!(
                    "{text} {copied_bytes}, exceeding the limit {JSON_PATCH_COPY_BYTES_MAX}"
                )));
            }
            add(object, &path, copy)
        }
        "test" => {
            let expected = given.unwrap_or(Value::Null);
            let holds = match find(object, &path) {
                Ok(found) => equal(found, &expected),
                Err(_) => expected.is_null(),
            };
            if holds { Ok(()) } else { Err(bad("testing value failed")) }
        }
        other => Err(bad(&format!("Unexpected kind: {other}"))),
    }
}

fn bad(text: &str) -> PatchError {
    PatchError::inapplicable(text)
}

/// The reference tokens of a JSON pointer (RFC 6901).
fn pointer(text: &str) -> Result<Vec<String>, PatchError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = text.strip_prefix('/') else {
        return Err(bad(&format!("path {text:?} does not start with a slash")));
    };
    let tokens: Vec<String> =
        rest.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).collect();
    if tokens.len() > JSON_DEPTH_MAX {
        return Err(bad("path is too deep"));
    }
    Ok(tokens)
}

fn find<'a>(object: &'a mut Value, path: &[String]) -> Result<&'a mut Value, PatchError> {
    let mut at = object;
    for token in path {
        let next = match at {
            Value::Object(map) => map.get_mut(token),
            Value::Array(list) => index(token, list.len()).and_then(|i| list.get_mut(i)),
            _ => None,
        };
        at = next.ok_or_else(|| bad(&format!("missing value at {token:?}")))?;
    }
    Ok(at)
}

/// The parent of `path` and its last token.
fn parent<'a, 'p>(
    object: &'a mut Value,
    path: &'p [String],
) -> Result<(&'a mut Value, &'p str), PatchError> {
    let (last, before) = path.split_last().ok_or_else(|| bad("the whole document"))?;
    Ok((find(object, before)?, last))
}

fn add(object: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    within_depth(&value, path.len())?;
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (parent, last) = parent(object, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(last.to_owned(), value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            // One past the last is a place to insert at, and -1 is the last such place.
            let at = index(last, list.len() + 1).filter(|at| *at <= list.len());
            list.insert(at.ok_or_else(|| bad("index out of bounds"))?, value);
        }
        _ => return Err(bad("add into a scalar")),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let (parent, last) = parent(object, path)?;
    match parent {
        Value::Object(map) => map.remove(last).ok_or_else(|| bad("remove of a missing key")),
        Value::Array(list) => match index(last, list.len()).filter(|at| *at < list.len()) {
            Some(at) => Ok(list.remove(at)),
            None => Err(bad("index out of bounds")),
        },
        _ => Err(bad("remove from a scalar")),
    }
}

/// A list index; `-n` counts from the end of a list of `len`.
fn index(token: &str, len: usize) -> Option<usize> {
    match token.strip_prefix('-') {
        Some(back) => len.checked_sub(back.parse::<usize>().ok().filter(|back| *back > 0)?),
        None if token.starts_with('+') => None,
        None => token.parse().ok(),
    }
}

fn within_depth(value: &Value, above: usize) -> Result<(), PatchError> {
    if depth_exceeds(value, JSON_DEPTH_MAX.saturating_sub(above)) {
        return Err(bad("the result is nested too deeply"));
    }
    Ok(())
}

fn depth_exceeds(value: &Value, left: usize) -> bool {
    match value {
        Value::Array(list) => left == 0 || list.iter().any(|item| depth_exceeds(item, left - 1)),
        Value::Object(map) => left == 0 || map.values().any(|item| depth_exceeds(item, left - 1)),
        _ => false,
    }
}

/// Equality of RFC 6902 section 4.6: numbers by value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[track_caller]
    fn check(mut object: Value, patch: Value, expected: Result<Value, u16>) {
        let result = json(&mut object, patch).map(|()| object).map_err(|error| error.code);
        assert_eq!(result, expected);
    }

    #[test]
    fn operations() {
        let doc = || value!({"a": [1, 2, 3], "b": {"c~d": {"e/f": 0}}, "n": null});
        let one = |op: Value| value!([op]);
        for (op, expected) in [
            (value!({"op": "add", "path": "/x", "value": 1}), "/x=1"),
            (value!({"op": "add", "path": "/a/1", "value": 9}), "/a=[1,9,2,3]"),
            (value!({"op": "add", "path": "/a/3", "value": 9}), "/a=[1,2,3,9]"),
            (value!({"op": "add", "path": "/a/-", "value": 9}), "/a=[1,2,3,9]"),
            (value!({"op": "add", "path": "/a/-1", "value": 9}), "/a=[1,2,3,9]"),
            (value!({"op": "add", "path": "/a/-2", "value": 9}), "/a=[1,2,9,3]"),
            (value!({"op": "add", "path": "/n", "value": null}), "/n=null"),
            (
                value!({"op": "replace", "path": "/b/c~0d/e~1f", "value": 5}),
                r#"/b={"c~d":{"e/f":5}}"#,
            ),
            (value!({"op": "replace", "path": "/a/-1", "value": 5}), "/a=[1,2,5]"),
            (value!({"op": "remove", "path": "/a/0"}), "/a=[2,3]"),
            (value!({"op": "remove", "path": "/a/-1"}), "/a=[1,2]"),
            (value!({"op": "move", "from": "/a", "path": "/z"}), "/z=[1,2,3]"),
            (value!({"op": "copy", "from": "/a/2", "path": "/a/0"}), "/a=[3,1,2,3]"),
            (value!({"op": "test", "path": "/a", "value": [1.0, 2, 3]}), "/a=[1,2,3]"),
            (value!({"op": "test", "path": "/missing", "value": null}), "/a=[1,2,3]"),
            (value!({"op": "test", "path": "/n", "value": null}), "/a=[1,2,3]"),
        ] {
            let mut object = doc();
            json(&mut object, one(op.clone())).unwrap_or_else(|e| panic!("{op}: {e}"));
            let (path, text) = expected.split_once('=').unwrap();
            assert_eq!(object.pointer(path).unwrap().to_string(), text, "{op}");
        }
        for op in [
            value!({"op": "add", "path": "/a/4", "value": 1}),
            value!({"op": "add", "path": "/a/-5", "value": 1}),
            value!({"op": "add", "path": "/a/x", "value": 1}),
            value!({"op": "add", "path": "/a/+1", "value": 1}),
            value!({"op": "add", "path": "/missing/x", "value": 1}),
            value!({"op": "add", "path": "/a/0/x", "value": 1}),
            value!({"op": "add", "path": "/x"}),
            value!({"op": "add", "value": 1}),
            value!({"op": "add", "path": "x", "value": 1}),
            value!({"op": "replace", "path": "/x", "value": 1}),
            value!({"op": "remove", "path": "/x"}),
            value!({"op": "remove", "path": "/a/3"}),
            value!({"op": "remove", "path": ""}),
            value!({"op": "move", "path": "/x"}),
            value!({"op": "copy", "from": "/x", "path": "/y"}),
            value!({"op": "test", "path": "/a", "value": [1, 2]}),
            value!({"op": "test", "path": "/missing", "value": 1}),
            value!({"op": "nope", "path": "/a"}),
            value!({"path": "/a"}),
        ] {
            check(doc(), one(op), Err(422));
        }
        check(doc(), value!({"op": "add"}), Err(400));
        check(doc(), value!([1]), Err(400));
        check(
            value!({"a": 1}),
            value!([{"op": "replace", "path": "", "value": {}}]),
            Ok(value!({})),
        );
        check(value!({}), value!([]), Ok(value!({})));
    }

    #[test]
    fn a_refused_test_says_what_a_real_server_says() {
        let patch = value!([{"op": "test", "path": "/data/a", "value": "x"}]);
        let error = json(&mut value!({}), patch).unwrap_err();
        let status = crate::status::ApiError::from(error).to_status();
        let text = "the server rejected our request due to an error in our request";
        assert_eq!(
            status,
            value!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": text, "reason": "Invalid", "details": {}, "code": 422})
        );
    }

    #[test]
    fn work_is_bounded() {
        let op = value!({"op": "add", "path": "/x", "value": 1});
        check(value!({}), Value::Array(vec![op; JSON_PATCH_OPS_MAX + 1]), Err(413));
        // Each copy doubles the document.
        let copy = |n: usize| value!({"op": "copy", "from": "/a", "path": format!("/a/{n}")});
        let ops: Vec<Value> = (0..100).map(|n| copy(n % 2)).collect();
        check(value!({"a": ["xxxxxxxx"]}), Value::Array(ops), Err(413));
        let text = "x".repeat(1_000_000);
        let ops = (0..5).map(|n| value!({"op": "copy", "from": "/a", "path": format!("/{n}")}));
        check(value!({"a": text}), ops.collect(), Err(413));
        // Each move nests the document deeper.
        let ops = (0..200).map(|_| {
            [
                value!({"op": "add", "path": "/b", "value": {}}),
                value!({"op": "move", "from": "/a", "path": "/b/a"}),
                value!({"op": "move", "from": "/b", "path": "/a"}),
            ]
        });
        check(value!({"a": {}}), ops.flatten().collect(), Err(422));
    }
}
