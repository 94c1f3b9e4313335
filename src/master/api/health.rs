//! /healthz, /livez and /readyz: one line per check when asked, `ok` otherwise.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::answer::{Answer, page_not_found, plain};
use super::route::{Call, failure, method_not_allowed};

/// A named condition of this master.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    /// Also part of /livez: when it fails, only a restart helps.
    vital: bool,
    holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The conditions that the health paths report; `ping` is always among them.
#[derive(Clone, Debug, Default)]
pub struct Health(Vec<Check>);

impl Health {
    /// Adds a condition for readiness and liveness.
    pub fn alive_when(
        self,
        name: &'static str,
        holds: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(Check { name, vital: true, holds: Arc::new(holds) })
    }

    fn with(mut self, check: Check) -> Self {
        self.0.push(check);
        self
    }
}

/// Answers the health paths; `None` for any other.
pub(super) fn answer(call: &Call, parts: &[&str]) -> Option<Answer> {
    let (root, one) = match parts {
        [root, rest @ ..] if matches!(*root, "healthz" | "livez" | "readyz") => (*root, rest),
        _ => return None,
    };
    if !matches!(call.method, Method::GET | Method::HEAD) {
        let form = super::negotiate::error_form(&call.headers, &call.query);
        return Some(failure(&method_not_allowed(), form));
    }
    let checks = checks(&call.api.health, root);
    if !one.is_empty() {
        let name = one.join("/");
        let found = checks.iter().find(|(check, _)| *check == name);
        return Some(match found {
            None => page_not_found(),
            Some((_, true)) => plain(StatusCode::OK, "ok"),
            Some((_, false)) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name}\n"))
            }
        });
    }
    let excluded = call.query.all("exclude");
    let mut lines = String::new();
    let mut fine = true;
    for (name, holds) in checks {
        if excluded.contains(&name) {
            let _ = writeln!(lines, "[+]{name} excluded: ok");
        } else if holds {
            let _ = writeln!(lines, "[+]{name} ok");
        } else {
            fine = false;
            let _ = writeln!(lines, "[-]{name} failed: reason withheld");
        }
    }
    Some(match (fine, call.query.get("verbose").is_some()) {
        (true, false) => plain(StatusCode::OK, "ok"),
        (true, true) => plain(StatusCode::OK, format!("{lines}{root} check passed\n")),
        (false, _) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{root} check failed\n"))
        }
    })
}

/// Names of the checks of a health path.
pub(super) fn names(health: &Health, root: &str) -> Vec<&'static str> {
    let own = health.0.iter().filter(|check| check.vital || root != "livez");
    ["ping"].into_iter().chain(own.map(|check| check.name)).collect()
}

fn checks(health: &Health, root: &str) -> Vec<(&'static str, bool)> {
    let own = health.0.iter().filter(|check| check.vital || root != "livez");
    [("ping", true)].into_iter().chain(own.map(|check| (check.name, (check.holds)()))).collect()
}
