//! Random damage to recorded objects: nothing of this crate that reads objects may panic on it.
//!
//! Each round takes a recorded body or answer, changes a few random places (other types, nulls,
//! extremes, lost and doubled items), and passes it through defaults, validation (also as an update
//! and a status write), selectors and tables, both raw and after the schema check. A panic names
//! the seed of its round; set `KUMQUAT_SEED` at compile time to replay one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use model::resource::{self, RESOURCES, Resource};
use model::selector::{FieldSelector, LabelSelector};
use model::timestamp::Timestamp;
use model::{defaulting, schema, table, validation};
use serde_json::{Value, json};

const RECORDED: &str = include_str!("../../../tests/data/defaulting-and-validation.jsonl");
const ROUNDS: u64 = 6_000;

/// Xorshift: enough chance for a test, the same on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for line in RECORDED.lines() {
        let mut case: Value = serde_json::from_str(line).expect("a line is JSON");
        objects.extend([case["body"].take(), case["answer"].take()]);
    }
    objects
}

fn odd_value(chance: &mut Chance) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("é\u{0}\n"),
        json!("None"),
        json!("1e999999999999"),
        json!("-9223372036854775808"),
        json!("99999999999999999999Ei"),
        json!("a".repeat(300)),
        json!("['']"),
        json!("metadata.labels['"),
        json!("0000-00-00T00:00:00Z"),
        json!("9999-12-31T23:59:59.999999999+23:59"),
        json!("%"),
        json!("::ffff:1.2.3.4"),
        json!([]),
        json!([null, 1, "x", {}]),
        json!({}),
        json!({"": {"a": []}, "name": "x", "operator": "In", "values": ["-"]}),
    ];
    values[chance.below(values.len())].clone()
}

/// Changes one random place of `value`.
fn damage(value: &mut Value, chance: &mut Chance) {
    let stop = chance.below(5) == 0;
    match value {
        Value::Object(map) if !map.is_empty() && !stop => {
            let at = chance.below(map.len());
            let key = map.keys().nth(at).expect("below the length").clone();
            if chance.below(12) == 0 {
                map.remove(&key);
            } else {
                damage(map.get_mut(&key).expect("its own key"), chance);
            }
        }
        Value::Array(list) if !list.is_empty() && !stop => {
            let at = chance.below(list.len());
            match chance.below(12) {
                0 => {
                    list.remove(at);
                }
                1 => list.push(list[at].clone()),
                _ => damage(&mut list[at], chance),
            }
        }
        other => *other = odd_value(chance),
    }
}

/// Everything that reads an object.
fn exercise(resource: &Resource, object: &Value, sound: &Value) {
    let mut defaulted = object.clone();
    defaulting::apply(resource, &mut defaulted);
    let once = defaulted.clone();
    defaulting::apply(resource, &mut defaulted);
    assert_eq!(defaulted, once, "defaults are stable");
    defaulting::create(resource, &mut defaulted);
    for new in [object, &defaulted] {
        for old in [None, Some(sound), Some(object)] {
            let errors = validation::validate(resource, new, old);
            let status = validation::invalid(resource, "x", &errors).to_status();
            assert_eq!(status["code"], 422);
        }
        validation::validate_status(resource, new, sound);
        validation::validate_status(resource, sound, new);
        let cells = table::row(resource, new, Timestamp::from_seconds(1_795_331_777));
        assert_eq!(cells.len(), resource.columns.len());
        table::conditions(resource, new);
        for selector in [&new["spec"]["selector"], &new["metadata"], new] {
            let _ = LabelSelector::from_object(selector).map(|s| s.matches(new));
            LabelSelector::from_map(selector).matches(sound);
        }
        for text in resource.selectable {
            let selector =
                FieldSelector::parse(resource, &format!("{text}!=x")).expect("selectable");
            selector.matches(resource, new);
        }
    }
}

fn round(seed: u64, objects: &[Value]) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let sound = &objects[chance.below(objects.len())];
    let own = RESOURCES.iter().find(|r| sound["kind"] == r.kind);
    let other = &RESOURCES[chance.below(RESOURCES.len())];
    // Mostly the object's own kind; sometimes a wrong one, which fits nowhere.
    let resource = own.filter(|_| chance.below(8) > 0).unwrap_or(other);
    let mut object = sound.clone();
    for _ in 0..=chance.below(6) {
        damage(&mut object, &mut chance);
    }
    exercise(resource, &object, sound);
    if schema::check(resource, &mut object).is_ok() {
        exercise(resource, &object, sound);
    }
}

#[test]
fn damaged_objects_are_judged_without_panic() {
    assert!(resource::by_kind_key("/pods").is_some());
    let objects = objects();
    let rounds = match option_env!("KUMQUAT_SEED").and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 1..ROUNDS + 1,
    };
    for seed in rounds {
        let outcome = catch_unwind(AssertUnwindSafe(|| round(seed, &objects)));
        assert!(outcome.is_ok(), "the round with seed {seed} panicked");
    }
}
