//! The roles and bindings that every cluster begins with, as a Kubernetes 1.36 server makes them.
//!
//! `bootstrap.bin` is packed by `cargo xtask generate` from `data/kubernetes-1.36/bootstrap-rbac.json`
//! (77 kB of JSON): every text, list and map stands once, and is named by its number.
//!
//! ```text
//! file = number (of nodes) node...; a node names only nodes before it, the last one is the whole
//! node = tag: 0 null | 1 text: number, bytes | 2 list: number, (node)... | 3 map: number, (text, node)...
//! number = LEB128
//! ```

use serde_json::{Map, Value};

use super::RBAC_GROUP;
use crate::ids::KindKey;
use crate::view::kind;

static BYTES: &[u8] = include_bytes!("bootstrap.bin");

/// The lists of the file, with the kind of their objects and its word.
const KINDS: [(&str, KindKey, &str); 4] = [
    ("clusterroles", kind::CLUSTER_ROLES, "ClusterRole"),
    ("clusterrolebindings", kind::CLUSTER_ROLE_BINDINGS, "ClusterRoleBinding"),
    ("roles", kind::ROLES, "Role"),
    ("rolebindings", kind::ROLE_BINDINGS, "RoleBinding"),
];

/// Every object of them, roles before the bindings that name them.
pub fn objects() -> impl Iterator<Item = (KindKey, Value)> {
    let nodes = Nodes::read(BYTES);
    let lists = nodes.fields(nodes.starts.len().saturating_sub(1));
    KINDS.into_iter().flat_map(move |(list, kind, word)| {
        let found = lists.iter().find(|(name, _)| nodes.text(*name) == list);
        let items = found.map(|(_, list)| nodes.items(*list)).unwrap_or_default();
        let objects: Vec<_> = items.into_iter().map(|item| nodes.value(item)).collect();
        objects.into_iter().map(move |mut object| {
            object["kind"] = word.into();
            object["apiVersion"] = format!("{RBAC_GROUP}/v1").into();
            (kind.clone(), object)
        })
    })
}

/// Where each node begins.
struct Nodes {
    bytes: &'static [u8],
    starts: Vec<u32>,
}

/// What stands at a node.
enum Node {
    Null,
    Text(&'static str),
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
}

impl Nodes {
    fn read(bytes: &'static [u8]) -> Self {
        let mut rest = bytes;
        let count = number(&mut rest);
        let mut starts = Vec::with_capacity(count);
        for _ in 0..count {
            starts.push((bytes.len() - rest.len()) as u32);
            node(&mut rest);
        }
        Self { bytes, starts }
    }

    fn node(&self, at: usize) -> Node {
        let Some(start) = self.starts.get(at) else { return Node::Null };
        node(&mut &self.bytes[*start as usize..])
    }

    fn text(&self, at: usize) -> &'static str {
        match self.node(at) {
            Node::Text(text) => text,
            _ => "",
        }
    }

    fn items(&self, at: usize) -> Vec<usize> {
        match self.node(at) {
            Node::List(items) => items,
            _ => Vec::new(),
        }
    }

    fn fields(&self, at: usize) -> Vec<(usize, usize)> {
        match self.node(at) {
            Node::Map(fields) => fields,
            _ => Vec::new(),
        }
    }

    fn value(&self, at: usize) -> Value {
        match self.node(at) {
            Node::Null => Value::Null,
            Node::Text(text) => text.into(),
            Node::List(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Node::Map(fields) => {
                let field = |(name, value)| (self.text(name).to_owned(), self.value(value));
                Value::Object(fields.into_iter().map(field).collect::<Map<_, _>>())
            }
        }
    }
}

fn node(rest: &mut &'static [u8]) -> Node {
    match number(rest) {
        1 => {
            let bytes = number(rest);
            let (text, after) = rest.split_at(bytes);
            *rest = after;
            Node::Text(std::str::from_utf8(text).expect("the generator writes UTF-8"))
        }
        2 => Node::List((0..number(rest)).map(|_| number(rest)).collect()),
        3 => Node::Map((0..number(rest)).map(|_| (number(rest), number(rest))).collect()),
        _ => Node::Null,
    }
}

fn number(rest: &mut &'static [u8]) -> usize {
    let (mut number, mut shift) = (0, 0);
    while let Some((&byte, after)) = rest.split_first() {
        *rest = after;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = include_str!("../../../data/kubernetes-1.36/bootstrap-rbac.json");

    #[test]
    fn they_are_those_of_a_real_server() {
        let recorded: Value = serde_json::from_str(RECORDED).unwrap();
        let count: usize =
            KINDS.iter().map(|(list, ..)| recorded[list].as_array().unwrap().len()).sum();
        assert_eq!((count, objects().count()), (135, 135));
        for (kind, mut object) in objects() {
            let (list, _, word) = KINDS.iter().find(|known| known.1 == kind).unwrap();
            assert_eq!(object["kind"], *word);
            object
                .as_object_mut()
                .unwrap()
                .retain(|name, _| name != "kind" && name != "apiVersion");
            assert!(recorded[list].as_array().unwrap().contains(&object), "{object}");
        }
    }

    #[test]
    fn they_are_packed_tightly() {
        assert!(BYTES.len() < 17_000, "{} bytes", BYTES.len());
    }
}
