//! Label selectors: equality, sets, existence, comparison.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::SelectorError;
use super::lexer::{Token, scan};
use crate::validation::error::{FieldError, joined};
use crate::validation::names;

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key = value`
    Equals,
    /// `key == value`
    DoubleEquals,
    /// `key != value`; also true without the key.
    NotEquals,
    /// `key in (a, b)`
    In,
    /// `key notin (a, b)`; also true without the key.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key > number`
    Greater,
    /// `key < number`
    Less,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// The values compared with; empty for existence.
    pub values: BTreeSet<String>,
}

/// A conjunction of requirements, sorted by key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object: what an absent `LabelSelector` means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the `labelSelector` query parameter.
    ///
    /// # Errors
    /// The text is no selector; the real server's words.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = Parser { tokens: scan(text), at: 0 }.parse().map_err(SelectorError)?;
        Ok(Self::of(requirements))
    }

    /// Reads a `metav1.LabelSelector` object; null matches nothing, `{}` everything.
    ///
    /// # Errors
    /// An operator, key or value that is none.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let Some(selector) = selector.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in
            selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten()
        {
            let values = BTreeSet::from([value.as_str().unwrap_or("").to_owned()]);
            requirements.push(Requirement::new(key, Operator::Equals, values)?);
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |field| expression.get(field).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let quoted = crate::validation::error::go_quote(other);
                    return Err(SelectorError(format!(
                        "{quoted} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten();
            let values = values.map(|v| v.as_str().unwrap_or("").to_owned()).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// Reads a plain map of labels (Service, ReplicationController); null or empty matches nothing.
    pub fn from_map(selector: &Value) -> Self {
        let Some(labels) = selector.as_object().filter(|labels| !labels.is_empty()) else {
            return Self::nothing();
        };
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.as_str().unwrap_or("").to_owned()]),
        };
        Self::of(labels.iter().map(requirement).collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels that `label` looks up match.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether a `labels` map matches; null is an empty map.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        let labels: Option<&Map<String, Value>> = labels.as_object();
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(object.pointer("/metadata/labels").unwrap_or(&Value::Null))
    }
}

impl fmt::Display for LabelSelector {
    /// The text that [`LabelSelector::parse`] reads; empty for everything and nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl Requirement {
    /// A requirement with valid key and values.
    ///
    /// # Errors
    /// The faults of key and values, joined.
    fn new(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        key_faults("key", key, &mut errors);
        let listed = || Value::from(values.iter().cloned().collect::<Vec<_>>());
        let fault = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            _ => None,
        };
        errors.extend(fault.map(|text| FieldError::invalid("values", listed(), text)));
        for (index, value) in values.iter().enumerate() {
            let compares = matches!(operator, Operator::Greater | Operator::Less);
            if compares && value.parse::<i64>().is_err() {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(format!("values[{index}]"), &**value, text));
            }
        }
        for (index, value) in values.iter().enumerate() {
            let faults = names::label_value(value);
            if !faults.is_empty() {
                let path = format!("values[{index}][{key}]");
                errors.push(FieldError::invalid(path, &**value, faults.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(SelectorError(joined(&errors)))
        }
    }

    /// Whether a label with this value (`None`: absent) fulfils the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = value.is_some_and(|v| self.values.contains(v));
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => listed,
            Operator::NotEquals | Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Greater => self.compares(value, |label, bound| label > bound),
            Operator::Less => self.compares(value, |label, bound| label < bound),
        }
    }

    fn compares(&self, value: Option<&str>, holds: impl Fn(i64, i64) -> bool) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let label = value.and_then(number);
        let bound = self.values.first().and_then(|text| number(text));
        matches!((label, bound), (Some(label), Some(bound)) if holds(label, bound))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        let values = values.join(",");
        match self.operator {
            Operator::Equals => write!(f, "{}={values}", self.key),
            Operator::DoubleEquals => write!(f, "{}=={values}", self.key),
            Operator::NotEquals => write!(f, "{}!={values}", self.key),
            Operator::In => write!(f, "{} in ({values})", self.key),
            Operator::NotIn => write!(f, "{} notin ({values})", self.key),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::Greater => write!(f, "{}>{values}", self.key),
            Operator::Less => write!(f, "{}<{values}", self.key),
        }
    }
}

fn key_faults(path: &str, key: &str, errors: &mut Vec<FieldError>) {
    let faults = names::qualified(key);
    if !faults.is_empty() {
        errors.push(FieldError::invalid(path, key, faults.join("; ")));
    }
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next word; where a value may stand, `in` and `notin` are values.
    fn peek_value(&self) -> (Token, &'a str) {
        match self.tokens.get(self.at).copied().unwrap_or((Token::End, "")) {
            (Token::In | Token::NotIn, word) => (Token::Identifier, word),
            other => other,
        }
    }

    fn next_value(&mut self) -> (Token, &'a str) {
        let token = self.peek_value();
        self.at += 1;
        token
    }

    fn next_operator(&mut self) -> (Token, &'a str) {
        self.at += 1;
        self.tokens.get(self.at - 1).copied().unwrap_or((Token::End, ""))
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek_value() {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self.requirement();
                    requirements.push(
                        requirement.map_err(|e| format!("unable to parse requirement: {e}"))?,
                    );
                    match self.next_value() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => {}
                        (_, word) => {
                            return Err(format!(
                                "found '{word}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                    let (token, word) = self.peek_value();
                    if !matches!(token, Token::Identifier | Token::Not) {
                        return Err(format!("found '{word}', expected: identifier after ','"));
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, word) => {
                    return Err(format!(
                        "found '{word}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next_value();
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.next_value();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let mut errors = Vec::new();
        key_faults("<nil>", key, &mut errors);
        if !errors.is_empty() {
            return Err(joined(&errors));
        }
        let new = |operator, values| Requirement::new(key, operator, values).map_err(|e| e.0);
        if absent {
            return new(Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return new(Operator::Exists, BTreeSet::new());
        }
        let operator = match self.next_operator() {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals, _) => Operator::Equals,
            (Token::DoubleEquals, _) => Operator::DoubleEquals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::Greater,
            (Token::Less, _) => Operator::Less,
            (_, word) => return Err(format!("found '{word}', expected: {BINARY_OPERATORS}")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        new(operator, values)
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, String> {
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next_value() {
            (Token::Identifier, word) => Ok(BTreeSet::from([word.to_owned()])),
            (_, word) => Err(format!("found '{word}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, word) = self.next_value();
        if token != Token::Open {
            return Err(format!("found '{word}' expected: '('"));
        }
        let (token, word) = self.peek_value();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                match self.next_value().0 {
                    Token::Close => Ok(values),
                    _ => Err(format!("found '{word}', expected: ')'")),
                }
            }
            Token::Close => {
                self.at += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            _ => Err(format!("found '{word}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            match self.next_value() {
                (Token::Identifier, word) => {
                    values.insert(word.to_owned());
                    match self.peek_value() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, word) => return Err(format!("found '{word}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek_value().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.at += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, word) => return Err(format!("found '{word}', expected: ',', or identifier")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_match_labels() {
        let labels = json!({"app": "web", "tier": "", "n": "5"});
        for (text, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=web", true),
            ("app==web,tier", true),
            ("app = web , tier=", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("other notin (db)", true),
            ("tier in ()", true),
            ("tier in (,a)", true),
            ("in in (a)", false),
            ("n>4", true),
            ("n<5", false),
            ("app>4", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches_labels(&labels), expected, "{text}");
            let again = LabelSelector::parse(&selector.to_string()).expect("own text");
            assert_eq!(again, selector, "{text}");
        }
    }

    #[test]
    fn refusals_have_the_real_words() {
        for (text, expected) in [
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a=-",
                "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (
                "-a",
                "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ] {
            let error = LabelSelector::parse(text).expect_err(text);
            assert_eq!(error.0, expected, "{text}");
        }
    }

    #[test]
    fn objects_match_labels() {
        let labels = json!({"a": "b", "c": "d"});
        for (object, expected) in [
            (json!(null), Some(false)),
            (json!({}), Some(true)),
            (json!({"matchLabels": {"a": "b"}}), Some(true)),
            (json!({"matchLabels": {"a": "x"}}), Some(false)),
            (
                json!({"matchExpressions": [{"key": "c", "operator": "In", "values": ["d"]}]}),
                Some(true),
            ),
            (json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]}), Some(true)),
            (json!({"matchExpressions": [{"key": "c", "operator": "In"}]}), None),
            (json!({"matchExpressions": [{"key": "c", "operator": "Near"}]}), None),
        ] {
            let selector = LabelSelector::from_object(&object).ok();
            assert_eq!(selector.map(|s| s.matches_labels(&labels)), expected, "{object}");
        }
        assert!(!LabelSelector::from_map(&json!({})).matches_labels(&labels));
        assert!(LabelSelector::from_map(&json!({"a": "b"})).matches_labels(&labels));
    }
}
