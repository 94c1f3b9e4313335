//! The view of a Deployment.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::selector::{RawSelector, Selector};
use super::template::Template;

/// A Deployment.
#[derive(Clone, Debug)]
pub struct DeploymentView {
    /// Metadata.
    pub meta: Meta,
    /// Wished pods.
    pub replicas: u32,
    /// Which ReplicaSets and pods are its own.
    pub selector: Selector,
    /// What its pods look like.
    pub template: Template,
    /// How pods of an old template are replaced.
    pub strategy: Strategy,
    /// Seconds that a pod must be ready before it counts as available.
    pub min_ready_seconds: u32,
    /// How many old ReplicaSets are kept for a rollback.
    pub history_limit: Option<u32>,
    /// No roll-out while true.
    pub paused: bool,
    /// Seconds without progress after which it says so; `None` for never.
    pub progress_deadline_seconds: Option<u32>,
    /// What it last reported.
    pub status: DeploymentStatus,
}

/// How pods of an old template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All old pods go before the first new one comes.
    Recreate,
    /// A few at a time.
    Rolling {
        /// How many more pods than wished there may be.
        max_surge: Amount,
        /// How many fewer available pods than wished there may be.
        max_unavailable: Amount,
    },
}

/// A number of pods, or a part of the wished ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many per hundred.
    Percent(u32),
}

impl Amount {
    /// The number of pods out of `total`.
    pub fn of(self, total: u32, round_up: bool) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let hundredths = u64::from(percent) * u64::from(total);
                let count = if round_up { hundredths.div_ceil(100) } else { hundredths / 100 };
                u32::try_from(count).unwrap_or(u32::MAX)
            }
        }
    }

    pub(super) fn parse(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Number(count)) => {
                Self::Count(count.as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0))
            }
            Some(Value::String(text)) => {
                let percent = text.strip_suffix('%').and_then(|digits| digits.parse().ok());
                Self::Percent(percent.unwrap_or(25))
            }
            _ => Self::Percent(25),
        }
    }
}

/// The reported state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// Pods.
    #[serde(deserialize_with = "null_as_empty")]
    pub replicas: u32,
    /// Pods of the newest template.
    #[serde(deserialize_with = "null_as_empty")]
    pub updated_replicas: u32,
    /// Pods that are ready.
    #[serde(deserialize_with = "null_as_empty")]
    pub ready_replicas: u32,
    /// Pods that are available.
    #[serde(deserialize_with = "null_as_empty")]
    pub available_replicas: u32,
    /// Pods that are missing or not available.
    #[serde(deserialize_with = "null_as_empty")]
    pub unavailable_replicas: u32,
    /// Pods that are going; `None` when it was never said.
    pub terminating_replicas: Option<u32>,
    /// Generation that the rest speaks of.
    #[serde(deserialize_with = "null_as_empty")]
    pub observed_generation: i64,
    /// How often a name made of the template's hash was already taken.
    #[serde(deserialize_with = "null_as_empty")]
    pub collision_count: u32,
    /// `Available`, `Progressing`.
    #[serde(deserialize_with = "null_as_empty")]
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Available`.
    pub r#type: Box<str>,
    /// `True`, `False`, `Unknown`.
    pub status: Box<str>,
    /// One word.
    #[serde(deserialize_with = "null_as_empty")]
    pub reason: Box<str>,
    /// One sentence.
    #[serde(deserialize_with = "null_as_empty")]
    pub message: Box<str>,
    /// When anything of it last changed, as stored.
    #[serde(deserialize_with = "null_as_empty")]
    pub last_update_time: Box<str>,
    /// When `status` last changed, as stored.
    #[serde(deserialize_with = "null_as_empty")]
    pub last_transition_time: Box<str>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(default)]
    status: Option<DeploymentStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    replicas: Option<u32>,
    selector: Option<RawSelector>,
    #[serde(borrow)]
    template: Option<&'a RawValue>,
    strategy: RawStrategy,
    min_ready_seconds: Option<u32>,
    revision_history_limit: Option<u32>,
    paused: Option<bool>,
    progress_deadline_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStrategy {
    r#type: Option<Box<str>>,
    rolling_update: Option<RawRolling>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRolling {
    max_surge: Option<Value>,
    max_unavailable: Option<Value>,
}

impl RawStrategy {
    fn view(self) -> Strategy {
        if self.r#type.as_deref() == Some("Recreate") {
            return Strategy::Recreate;
        }
        let rolling = self.rolling_update.unwrap_or_default();
        Strategy::Rolling {
            max_surge: Amount::parse(rolling.max_surge.as_ref()),
            max_unavailable: Amount::parse(rolling.max_unavailable.as_ref()),
        }
    }
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<DeploymentView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let spec = raw.spec;
    Ok(DeploymentView {
        meta: raw.metadata.view(identity),
        replicas: spec.replicas.unwrap_or(1),
        selector: Selector::from(spec.selector),
        template: Template::new(spec.template)?,
        strategy: spec.strategy.view(),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
        history_limit: spec.revision_history_limit,
        paused: spec.paused.unwrap_or_default(),
        // The largest number is upstream's way to say "never".
        progress_deadline_seconds: spec
            .progress_deadline_seconds
            .filter(|seconds| *seconds != i32::MAX as u32),
        status: raw.status.unwrap_or_default(),
    })
}
