//! Packs types into the bytes that `model::schema::table` reads (its header draws the layout).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::compile::{Elem, Field, ListRules, Type};

/// Elements from this code on are types.
const FIRST_TYPE: u16 = 16;

#[derive(Default)]
struct Pools {
    texts: BTreeMap<String, u16>,
    ordered: Vec<String>,
    /// `[count, text...]` runs; a list is named by the place of its count.
    lists: Vec<u16>,
    known_lists: BTreeMap<Vec<u16>, u16>,
    rules: Vec<ListRules>,
}

impl Pools {
    fn text(&mut self, text: &str) -> Result<u16> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let id = u16::try_from(self.ordered.len())?;
        self.ordered.push(text.to_owned());
        self.texts.insert(text.to_owned(), id);
        Ok(id)
    }

    fn list(&mut self, words: &[String]) -> Result<u16> {
        let ids = words.iter().map(|word| self.text(word)).collect::<Result<Vec<_>>>()?;
        if let Some(at) = self.known_lists.get(&ids) {
            return Ok(*at);
        }
        let at = u16::try_from(self.lists.len())?;
        self.lists.push(u16::try_from(ids.len())?);
        self.lists.extend(&ids);
        self.known_lists.insert(ids, at);
        Ok(at)
    }

    fn rules(&mut self, rules: &ListRules) -> Result<u8> {
        let known = self.rules.iter().position(|r| r == rules);
        let at = known.unwrap_or_else(|| {
            self.rules.push(rules.clone());
            self.rules.len() - 1
        });
        u8::try_from(at).context("more than 256 kinds of list rules")
    }
}

/// The packed bytes, and the index of each type by its schema name.
pub(super) fn pack(types: &BTreeMap<String, Type>) -> Result<(Vec<u8>, BTreeMap<String, u16>)> {
    let mut ids = BTreeMap::new();
    for (at, name) in types.keys().enumerate() {
        ids.insert(name.clone(), u16::try_from(at)?);
    }
    let mut pools = Pools::default();
    pools.text("")?;
    pools.list(&[])?;
    pools.rules(&ListRules::default())?;
    let (mut type_bytes, mut field_bytes, mut field_count) = (Vec::new(), Vec::new(), 0u16);
    for made in types.values() {
        let (package, name) = made.name.rsplit_once('.').context("a schema without a package")?;
        for word in [pools.text(package)?, pools.text(name)?, field_count] {
            push(&mut type_bytes, word);
        }
        push(&mut type_bytes, pools.list(&made.kinds)?);
        type_bytes.extend([u8::try_from(made.fields.len())?, made.leaf, made.flags, 0]);
        for field in &made.fields {
            pack_field(field, &ids, &mut pools, &mut field_bytes)?;
        }
        field_count += u16::try_from(made.fields.len())?;
    }
    let mut rule_bytes = Vec::new();
    for rules in std::mem::take(&mut pools.rules) {
        for word in [&rules.list_type, &rules.strategy, &rules.merge_key] {
            push(&mut rule_bytes, pools.text(word)?);
        }
        push(&mut rule_bytes, pools.list(&rules.map_keys)?);
    }
    let sections = [
        type_bytes,
        field_bytes,
        rule_bytes,
        pools.lists.iter().flat_map(|word| word.to_le_bytes()).collect(),
        text_bounds(&pools.ordered)?,
        pools.ordered.concat().into_bytes(),
    ];
    Ok((assemble(&sections)?, ids))
}

fn pack_field(
    field: &Field,
    ids: &BTreeMap<String, u16>,
    pools: &mut Pools,
    out: &mut Vec<u8>,
) -> Result<()> {
    let elem = match &field.elem {
        Elem::Scalar(code) => *code,
        Elem::Type(name) => {
            FIRST_TYPE + ids.get(name).with_context(|| format!("no type {name}"))?
        }
    };
    push(out, pools.text(&field.name)?);
    push(out, elem);
    push(out, pools.text(&field.go_type)?);
    push(out, pools.text(&field.default)?);
    push(out, pools.list(&field.enumeration)?);
    out.extend([field.number, field.shape, field.flags, pools.rules(&field.list)?]);
    Ok(())
}

fn text_bounds(texts: &[String]) -> Result<Vec<u8>> {
    let (mut bytes, mut end) = (Vec::new(), 0usize);
    push(&mut bytes, 0);
    for text in texts {
        end += text.len();
        push(&mut bytes, u16::try_from(end).context("more than 64 kB of text")?);
    }
    Ok(bytes)
}

fn assemble(sections: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut offset = 4 * (sections.len() + 1);
    let mut bytes = Vec::new();
    for section in sections {
        bytes.extend(u32::try_from(offset)?.to_le_bytes());
        offset += section.len();
    }
    bytes.extend(u32::try_from(offset)?.to_le_bytes());
    bytes.extend(sections.concat());
    ensure!(bytes.len() == offset, "sections do not add up");
    Ok(bytes)
}

fn push(bytes: &mut Vec<u8>, word: u16) {
    bytes.extend(word.to_le_bytes());
}
