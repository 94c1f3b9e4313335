//! Reviews: kinds that are only asked, and leave nothing behind.
//!
//! SelfSubjectAccessReview, SubjectAccessReview and LocalSubjectAccessReview ask whether somebody may;
//! SelfSubjectRulesReview what one may at all; SelfSubjectReview who one is; TokenReview whom a token
//! stands for. Each is answered with itself and a status, as `pkg/registry/{authorization,authentication}`
//! of Kubernetes do.

use http::StatusCode;
use logic::access::{self, Ask, Resource, Verdict, What};
use model::access::{PolicyRule, UserInfo};
use model::resource::Storage;
use model::status::ApiError;
use model::validation;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::body::Sent;
use super::route::{Call, Place, add_warnings, object_answer};
use super::{options, write};

/// Whether a kind is answered here.
pub(super) fn serves(place: &Place) -> bool {
    let of_group = matches!(place.resource.group, "authorization.k8s.io" | "authentication.k8s.io");
    of_group && place.resource.storage == Storage::Nowhere && place.subresource.is_none()
}

/// POST of a review.
pub(super) async fn create(call: &Call, place: &Place, body: Sent) -> Result<Answer, ApiError> {
    let mut options = options::write(call, "CreateOptions")?;
    let object = write::read_object(call, place, body, &mut options).await?;
    let target = write::target(place);
    let (mut review, warnings) = call.api.registry.check_request(&target, object, &options)?;
    let status = match place.resource.kind {
        "SelfSubjectReview" => {
            review["metadata"]["creationTimestamp"] = call.api.clock.now().to_string().into();
            json!({ "userInfo": shown(&call.user) })
        }
        "SelfSubjectRulesReview" => rules(call, &review)?,
        "TokenReview" => token(call, &review)?,
        kind => access(call, kind, &review)?,
    };
    review["status"] = status;
    let mut answer = object_answer(StatusCode::CREATED, review.to_string().into(), call.form()?);
    add_warnings(&mut answer, &warnings);
    Ok(answer)
}

/// Whether somebody may.
fn access(call: &Call, kind: &str, review: &Value) -> Result<Value, ApiError> {
    let faults = validation::access::review(kind, review);
    if !faults.is_empty() {
        // As a real server, which names neither the group nor an object here.
        return Err(validation::error::invalid("authorization.k8s.io", kind, "", &faults));
    }
    let spec = &review["spec"];
    let other;
    let user = match kind {
        "SelfSubjectAccessReview" => &call.user,
        _ => {
            other = user_of(spec);
            &other
        }
    };
    let text = |value: &'_ Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (asked, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let fields = ["group", "version", "resource", "subresource", "namespace", "name"];
    let [group, version, plural, subresource, namespace, name] =
        fields.map(|field| text(asked, field));
    let (verb, url) = match asked.is_object() {
        true => (text(asked, "verb"), String::new()),
        false => (text(path, "verb"), text(path, "path")),
    };
    let what = match asked.is_object() {
        true => What::Resource(Resource {
            group: &group,
            version: &version,
            plural: &plural,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
            of_node: "",
        }),
        false => What::Path(&url),
    };
    let verdict = access::decide(&call.api.views.world(), &Ask { user, verb: &verb, what });
    let mut status = json!({ "allowed": verdict.is_allowed() });
    let (Verdict::Allowed(reason) | Verdict::NoOpinion(reason)) = verdict;
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(status)
}

/// The user that a review speaks of.
fn user_of(spec: &Value) -> UserInfo {
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

/// What one may at all.
fn rules(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let found = access::rules_of(&call.api.views.world(), &call.user, namespace);
    let is_board = access::node_of(&call.user).is_some();
    let mut errors = found.missing;
    if is_board {
        errors.insert(0, "node authorizer does not support user rule resolution".into());
    }
    let of_resources = found.rules.iter().filter(|rule| !rule.resources.is_empty());
    let of_paths = found.rules.iter().filter(|rule| !rule.non_resource_urls.is_empty());
    let part = |rule: &PolicyRule, paths: bool| {
        let rule = match paths {
            true => PolicyRule {
                verbs: rule.verbs.clone(),
                non_resource_urls: rule.non_resource_urls.clone(),
                ..PolicyRule::default()
            },
            false => PolicyRule { non_resource_urls: Vec::new(), ..rule.clone() },
        };
        json!(rule)
    };
    let mut status = json!({
        "resourceRules": of_resources.map(|rule| part(rule, false)).collect::<Vec<_>>(),
        "nonResourceRules": of_paths.map(|rule| part(rule, true)).collect::<Vec<_>>(),
        "incomplete": is_board,
    });
    match errors.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = one.as_str().into(),
        many => status["evaluationError"] = format!("[{}]", many.join(", ")).into(),
    }
    Ok(status)
}

/// Whom a token stands for.
fn token(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let spec = &review["spec"];
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        let why = "token is required for TokenReview in authentication";
        return Err(ApiError::bad_request(why));
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(match call.api.tokens.review(token, &audiences) {
        Err(trouble) => json!({ "user": {}, "error": trouble.to_string() }),
        Ok(found) => {
            let mut user = found.user;
            if !user.is_in(model::access::AUTHENTICATED) {
                user.groups.push(model::access::AUTHENTICATED.into());
            }
            let mut status = json!({ "authenticated": true, "user": shown(&user) });
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
    })
}

/// A user as `authentication/v1 UserInfo`.
fn shown(user: &UserInfo) -> Value {
    let mut fields = Map::new();
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            fields.insert(name.into(), value.into());
        }
    };
    text("username", &user.name);
    text("uid", &user.uid);
    if !user.groups.is_empty() {
        fields.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        fields.insert("extra".into(), json!(user.extra));
    }
    Value::Object(fields)
}
