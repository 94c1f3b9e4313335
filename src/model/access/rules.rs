//! Policy rules: as objects carry them, and packed for the master's memory.
//!
//! ```text
//! Rules  = rule...                     Rule = list x 5: verbs, groups, resources, names, urls
//! list   = number (bytes of items) items...          item = number (bytes of text) text
//! number = 7 bits a byte, lowest first; the top bit says that another byte follows (LEB128)
//! ```
//! A whole role is one allocation: about an eighth of what texts of their own would take. Lengths
//! stand before texts, so no text that a user chooses can end a rule or begin one.

use serde::{Deserialize, Serialize};

use crate::view::null_as_empty;

/// A rule as objects carry it (`rbac/v1 PolicyRule`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// What may be done.
    #[serde(deserialize_with = "null_as_empty")]
    pub verbs: Vec<String>,
    /// API groups.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources of them, `pods`, `pods/log`, `*/scale`.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names of objects; none means all.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths outside the resources.
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
}

/// The rules of a role, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Box<[u8]>);

impl Rules {
    /// Packs rules.
    pub fn pack<'a>(rules: impl IntoIterator<Item = &'a PolicyRule>) -> Self {
        let (mut bytes, mut items) = (Vec::new(), Vec::new());
        for rule in rules {
            let PolicyRule { verbs, api_groups, resources, resource_names, non_resource_urls } =
                rule;
            for list in [verbs, api_groups, resources, resource_names, non_resource_urls] {
                items.clear();
                for text in list {
                    push_number(&mut items, text.len());
                    items.extend_from_slice(text.as_bytes());
                }
                push_number(&mut bytes, items.len());
                bytes.extend_from_slice(&items);
            }
        }
        Self(bytes.into())
    }

    /// The rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let mut list = || take(&mut rest).map(List);
            Some(Rule {
                verbs: list()?,
                groups: list()?,
                resources: list()?,
                names: list()?,
                urls: list()?,
            })
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// One packed rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// What may be done.
    pub verbs: List<'a>,
    /// API groups.
    pub groups: List<'a>,
    /// Resources of them.
    pub resources: List<'a>,
    /// Names of objects; none means all.
    pub names: List<'a>,
    /// Paths outside the resources.
    pub urls: List<'a>,
}

impl From<Rule<'_>> for PolicyRule {
    fn from(rule: Rule<'_>) -> Self {
        Self {
            verbs: rule.verbs.to_vec(),
            api_groups: rule.groups.to_vec(),
            resources: rule.resources.to_vec(),
            resource_names: rule.names.to_vec(),
            non_resource_urls: rule.urls.to_vec(),
        }
    }
}

/// A list of texts of a packed rule.
#[derive(Clone, Copy, Debug)]
pub struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// The texts in their order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.0;
        // What was packed was UTF-8, and is cut where it was joined.
        std::iter::from_fn(move || take(&mut rest))
            .map(|text| std::str::from_utf8(text).unwrap_or_default())
    }

    /// Whether one of the texts is this one.
    pub fn has(self, wanted: &str) -> bool {
        let mut rest = self.0;
        while let Some(text) = take(&mut rest) {
            if text == wanted.as_bytes() {
                return true;
            }
        }
        false
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn to_vec(self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number, and then so many bytes.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut number, mut shift) = (0usize, 0);
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let (taken, after) = rest.split_at_checked(number)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(lists: [&[&str]; 5]) -> PolicyRule {
        let [verbs, api_groups, resources, resource_names, non_resource_urls] =
            lists.map(|list| list.iter().map(|&text| text.to_owned()).collect());
        PolicyRule { verbs, api_groups, resources, resource_names, non_resource_urls }
    }

    #[test]
    fn rules_come_back_as_they_were() {
        let long = "x".repeat(70_000);
        let rules = [
            rule([&["get", "list"], &["", "apps"], &["pods", "pods/log"], &[], &[]]),
            rule([&[], &[], &[], &[], &[]]),
            rule([&["*"], &[], &[], &[], &["/metrics", "/healthz/*"]]),
            rule([&["get"], &[""], &[long.as_str(), "\0\u{1}\n"], &["é"], &[]]),
        ];
        let packed = Rules::pack(&rules);
        let back: Vec<PolicyRule> = packed.iter().map(PolicyRule::from).collect();
        assert_eq!(back, rules);
        assert!(packed.iter().nth(3).unwrap().resources.has(&long));
        assert!(!packed.iter().next().unwrap().verbs.has("watch"));
        assert!(packed.iter().next().unwrap().groups.has(""));
        assert!(!packed.iter().nth(1).unwrap().groups.has(""));
    }

    #[test]
    fn json_is_that_of_the_api() {
        let text = r#"{"verbs":["get"],"nonResourceURLs":["/x"]}"#;
        let parsed: PolicyRule = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
        let nulls = r#"{"verbs":null,"apiGroups":null,"resources":null}"#;
        assert_eq!(serde_json::from_str::<PolicyRule>(nulls).unwrap(), PolicyRule::default());
    }
}
