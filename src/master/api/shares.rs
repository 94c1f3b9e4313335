//! How much of the API one user may have at a time: requests in work, bytes of bodies.
//!
//! ```text
//! all        API_REQUESTS_MAX, API_BODIES_BYTES_MAX
//! └─ common  three quarters of it: everybody but `system:masters`, who mend what others break
//!    └─ user a quarter of the requests, half of the bytes
//! ```
//! Requests beyond a share are refused (429), bytes beyond it wait. Bytes of the user's own share are
//! taken as announced, in order, so that one user's bodies do not wait for each other half read; those
//! of the others' only as they come: who announces much and sends nothing holds nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::access::{MASTERS, UserInfo};
use model::limits::{API_BODIES_BYTES_MAX, API_REQUESTS_MAX};
use model::status::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::route::generic;

const COMMON_REQUESTS_MAX: usize = API_REQUESTS_MAX / 4 * 3;
const COMMON_BODIES_BYTES_MAX: usize = API_BODIES_BYTES_MAX / 4 * 3;
const USER_REQUESTS_MAX: usize = API_REQUESTS_MAX / 4;
const USER_BODIES_BYTES_MAX: usize = API_BODIES_BYTES_MAX / 2;
/// How long a body that is being read waits for others to be done.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// What is left.
pub(super) struct Shares {
    bodies: Arc<Semaphore>,
    common_bodies: Arc<Semaphore>,
    common_requests: Arc<Semaphore>,
    /// Users with requests in work, of which there are as many at most.
    users: Mutex<HashMap<String, User>>,
}

struct User {
    requests: usize,
    bodies: Arc<Semaphore>,
}

/// The share of one request; dropping it gives it back.
pub(super) struct Share {
    shares: Arc<Shares>,
    of: Option<Common>,
}

struct Common {
    user: String,
    bodies: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

/// Where a body that is being read finds room.
pub(super) struct Room {
    own: Option<Arc<Semaphore>>,
    shared: Vec<Arc<Semaphore>>,
}

/// Bytes that a body holds.
#[derive(Default)]
pub(super) struct Held(Vec<OwnedSemaphorePermit>);

impl Shares {
    /// Nobody has any.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            bodies: Arc::new(Semaphore::new(API_BODIES_BYTES_MAX)),
            common_bodies: Arc::new(Semaphore::new(COMMON_BODIES_BYTES_MAX)),
            common_requests: Arc::new(Semaphore::new(COMMON_REQUESTS_MAX)),
            users: Mutex::default(),
        })
    }

    /// A place for a request of this user; none when they, or all together, have too many.
    pub(super) fn enter(self: &Arc<Self>, user: &UserInfo) -> Option<Share> {
        if user.is_in(MASTERS) {
            return Some(Share { shares: self.clone(), of: None });
        }
        let place = self.common_requests.clone().try_acquire_owned().ok()?;
        let mut users = self.users();
        let known = users.entry(user.name.clone()).or_insert_with(|| User {
            requests: 0,
            bodies: Arc::new(Semaphore::new(USER_BODIES_BYTES_MAX)),
        });
        if known.requests >= USER_REQUESTS_MAX {
            return None;
        }
        known.requests += 1;
        let of = Common { user: user.name.clone(), bodies: known.bodies.clone(), _place: place };
        drop(users);
        Some(Share { shares: self.clone(), of: Some(of) })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<String, User>> {
        // Entries change as a whole.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Where bodies of this request find room.
    pub(super) fn room(&self) -> Room {
        let all = self.shares.bodies.clone();
        match &self.of {
            None => Room { own: None, shared: vec![all] },
            Some(common) => Room {
                own: Some(common.bodies.clone()),
                shared: vec![self.shares.common_bodies.clone(), all],
            },
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(common) = &self.of else { return };
        let mut users = self.shares.users();
        if let Some(user) = users.get_mut(&common.user) {
            user.requests -= 1;
            if user.requests == 0 {
                users.remove(&common.user);
            }
        }
    }
}

impl Room {
    /// Waits until the user's other bodies leave room for one of so many bytes.
    ///
    /// # Errors
    /// 500 when the server stops.
    pub(super) async fn announce(&self, bytes: u32, held: &mut Held) -> Result<(), ApiError> {
        if let Some(own) = &self.own {
            held.0.push(own.clone().acquire_many_owned(bytes).await.map_err(|_| stopping())?);
        }
        Ok(())
    }

    /// Takes room for bytes that have come.
    ///
    /// # Errors
    /// 429 when others have all of it for too long, 500 when the server stops.
    pub(super) async fn take(&self, bytes: u32, held: &mut Held) -> Result<(), ApiError> {
        for shared in &self.shared {
            let taking = timeout(ROOM_WITHIN, shared.clone().acquire_many_owned(bytes)).await;
            held.0.push(taking.map_err(|_| full())?.map_err(|_| stopping())?);
        }
        Ok(())
    }
}

impl Held {
    /// Makes one of those that count for the same.
    pub(super) fn settle(&mut self) {
        let mut settled: Vec<OwnedSemaphorePermit> = Vec::new();
        for permit in self.0.drain(..) {
            let same =
                |one: &&mut OwnedSemaphorePermit| Arc::ptr_eq(one.semaphore(), permit.semaphore());
            match settled.iter_mut().find(same) {
                Some(one) => one.merge(permit),
                None => settled.push(permit),
            }
        }
        self.0 = settled;
    }
}

fn full() -> ApiError {
    let text = "the server has too many large requests at this moment, please try again later";
    ApiError { retry_after_seconds: Some(1), ..generic(429, "TooManyRequests", text) }
}

fn stopping() -> ApiError {
    ApiError::internal("the API server is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserInfo {
        UserInfo::new(name, [])
    }

    #[test]
    fn nobody_has_all_requests_and_the_admin_always_finds_one() {
        let shares = Shares::new();
        let mut held: Vec<Share> = std::iter::from_fn(|| shares.enter(&user("a"))).collect();
        assert_eq!(held.len(), USER_REQUESTS_MAX);
        for other in ["b", "c", "d", "e"] {
            held.extend(std::iter::from_fn(|| shares.enter(&user(other))));
        }
        assert_eq!(held.len(), COMMON_REQUESTS_MAX);
        assert!(shares.enter(&UserInfo::new("admin", [MASTERS.into()])).is_some());
        held.clear();
        assert!(shares.users().is_empty(), "nobody is remembered");
        assert!(shares.enter(&user("a")).is_some());
    }

    #[tokio::test]
    async fn what_is_announced_holds_only_ones_own() {
        let shares = Shares::new();
        let whole = u32::try_from(USER_BODIES_BYTES_MAX).expect("a share");
        let slow = shares.enter(&user("a")).expect("a place");
        let mut held = Held::default();
        slow.room().announce(whole, &mut held).await.expect("room");
        let mut waiting = Held::default();
        let room = slow.room();
        let more = room.announce(1, &mut waiting);
        assert!(timeout(Duration::from_millis(20), more).await.is_err(), "its own waits");
        let other = shares.enter(&user("b")).expect("a place");
        let mut others = Held::default();
        other.room().announce(whole, &mut others).await.expect("room");
        other.room().take(whole / 2, &mut others).await.expect("room");
        other.room().take(whole / 2, &mut others).await.expect("room");
        others.settle();
        assert_eq!(others.0.len(), 3);
        let left = COMMON_BODIES_BYTES_MAX - USER_BODIES_BYTES_MAX;
        assert_eq!(shares.common_bodies.available_permits(), left);
        drop(others);
        assert_eq!(shares.common_bodies.available_permits(), COMMON_BODIES_BYTES_MAX);
    }
}
