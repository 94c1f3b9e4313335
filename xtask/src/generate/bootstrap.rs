//! Packs the first roles and bindings into the bytes that `model::access::bootstrap` reads (its header
//! draws the layout).

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

/// The nodes so far, each once.
#[derive(Default)]
struct Nodes {
    known: BTreeMap<Vec<u8>, usize>,
    bytes: Vec<u8>,
}

impl Nodes {
    fn add(&mut self, value: &Value) -> Result<usize> {
        let mut node = Vec::new();
        match value {
            Value::Null => push(&mut node, 0),
            Value::String(text) => {
                push(&mut node, 1);
                push(&mut node, text.len());
                node.extend(text.as_bytes());
            }
            Value::Array(items) => {
                let items = items.iter().map(|item| self.add(item)).collect::<Result<Vec<_>>>()?;
                push(&mut node, 2);
                push(&mut node, items.len());
                items.into_iter().for_each(|item| push(&mut node, item));
            }
            Value::Object(fields) => {
                let mut pairs = Vec::new();
                for (name, value) in fields {
                    pairs.extend([self.add(&name.as_str().into())?, self.add(value)?]);
                }
                push(&mut node, 3);
                push(&mut node, fields.len());
                pairs.into_iter().for_each(|id| push(&mut node, id));
            }
            other => bail!("{other} cannot be packed"),
        }
        if let Some(id) = self.known.get(&node) {
            return Ok(*id);
        }
        let id = self.known.len();
        self.bytes.extend(&node);
        self.known.insert(node, id);
        Ok(id)
    }
}

/// The packed bytes.
pub(super) fn pack(recorded: &Value) -> Result<Vec<u8>> {
    let mut nodes = Nodes::default();
    nodes.add(recorded)?;
    let mut out = Vec::new();
    push(&mut out, nodes.known.len());
    out.extend(nodes.bytes);
    Ok(out)
}

fn push(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
