//! Amounts of cpu, memory and what else a pod asks for and a node has.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::quantity::Quantity;

/// Amounts; an amount that cannot be read counts as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub ephemeral_bytes: u64,
    /// Pods (of a node).
    pub pods: u64,
    /// Anything else by name (`hugepages-2Mi`, `example.com/device`).
    pub other: Vec<(Box<str>, u64)>,
}

impl Resources {
    /// The amount of a resource of any other name.
    pub fn other(&self, name: &str) -> u64 {
        self.other.iter().find(|(have, _)| have.as_ref() == name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `more` to this.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, u64::saturating_add);
    }

    /// Takes the larger of each amount.
    pub fn raise_to(&mut self, least: &Self) {
        self.combine(least, u64::max);
    }

    fn combine(&mut self, with: &Self, combine: fn(u64, u64) -> u64) {
        self.cpu_milli = combine(self.cpu_milli, with.cpu_milli);
        self.memory_bytes = combine(self.memory_bytes, with.memory_bytes);
        self.ephemeral_bytes = combine(self.ephemeral_bytes, with.ephemeral_bytes);
        self.pods = combine(self.pods, with.pods);
        for (name, amount) in &with.other {
            match self.other.iter_mut().find(|(have, _)| have == name) {
                Some((_, have)) => *have = combine(*have, *amount),
                None => self.other.push((name.clone(), *amount)),
            }
        }
    }
}

impl<'de> Deserialize<'de> for Resources {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let texts = Option::<BTreeMap<Box<str>, Amount<'de>>>::deserialize(source)?;
        let mut resources = Self::default();
        for (name, amount) in texts.unwrap_or_default() {
            match name.as_ref() {
                "cpu" => resources.cpu_milli = amount.milli(),
                "memory" => resources.memory_bytes = amount.whole(),
                "ephemeral-storage" => resources.ephemeral_bytes = amount.whole(),
                "pods" => resources.pods = amount.whole(),
                _ => resources.other.push((name, amount.whole())),
            }
        }
        Ok(resources)
    }
}

/// A quantity as stored: text, or a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Number(u64),
}

impl Amount<'_> {
    fn milli(&self) -> u64 {
        match self {
            Self::Text(text) => amount(text, Quantity::milli_value),
            Self::Number(number) => number.saturating_mul(1_000),
        }
    }

    fn whole(&self) -> u64 {
        match self {
            Self::Text(text) => amount(text, Quantity::value),
            Self::Number(number) => *number,
        }
    }
}

fn amount(text: &str, read: fn(Quantity) -> i64) -> u64 {
    Quantity::parse(text).map_or(0, |quantity| u64::try_from(read(quantity)).unwrap_or_default())
}
