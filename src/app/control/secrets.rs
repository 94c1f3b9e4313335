//! Rotation of the key of Secrets over the control socket of the leader.

use http::{Response, StatusCode};
use serde_json::json;

use super::{MasterSeat, refusal};
use crate::io::control::{Body, json as answer};
use crate::io::store::{Store, StoreError};
use crate::master::authority::Said;

/// Secrets that are looked at in one go.
const PAGE: usize = 256;

/// Answers `POST /v1/secrets/rotate`.
pub(super) fn rotate(master: &MasterSeat) -> Response<Body> {
    let store = master.status.registry.store();
    // A key is handed out with the kit only: a master without it could not open what it leads.
    if store.members().is_some_and(|group| group.members.len() > 1) {
        let text = "the key cannot be rotated while several boards are masters: the others would not \
                    have it; start them with `--role worker`, rotate, and let them come back";
        return refusal(StatusCode::CONFLICT, text);
    }
    // Another authority brings another key with it, and would put it in this one's place.
    let said = match Said::read(store) {
        Ok(said) => said,
        Err(error) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    if !said.lost.is_empty() || said.current.is_some_and(|pin| pin != master.pki.pin()) {
        let text = "the cluster takes other keys, since a master was thrown out: Secrets are sealed \
                    with another key then";
        return refusal(StatusCode::CONFLICT, text);
    }
    match stale(store) {
        Ok(0) => {}
        Ok(count) => {
            let text = format!("{count} Secrets are still being sealed anew: try again later");
            return refusal(StatusCode::CONFLICT, &text);
        }
        Err(error) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
    match master.secrets_keys.rotate() {
        Ok(key) => answer(StatusCode::OK, &json!({ "key": key, "secrets": stale(store).ok() })),
        Err(error) => {
            let text = format!("cannot make another key: {error}");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}

/// How many Secrets are not sealed with the current key.
fn stale(store: &Store) -> Result<usize, StoreError> {
    let (mut count, mut after) = (0, None);
    loop {
        let (stale, next) = store.stale_secrets(after, PAGE)?;
        count += stale.len();
        if next.is_none() {
            return Ok(count);
        }
        after = next;
    }
}
