//! Whoever asks this master's API is answered: by the API itself while this master leads, else by the
//! leader, to which the request is passed on.
//!
//! ```text
//! client ─TLS─▶ serve ─▶ gateway ─ this master leads ─▶ route
//!                          │   └── another one does ──▶ forward ══7443══▶ receive ─▶ route  (at the leader)
//!                          └ nobody: held for two seconds, then 503 with Retry-After
//! ```
//! The connections of clients outlive every change of leader. A client's certificate is judged where its
//! TLS ends, by the authority that all masters share; tokens travel on, and the leader judges them, and
//! what the user may. Invariants: a request that may have arrived is never sent again, unless it only
//! reads and had no body; the leader takes a user's name only from a current member of the group.

mod forward;
mod receive;
mod upgrade;

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use model::limits::{
    API_REQUESTS_MAX, API_STOP_SECONDS_MAX, API_UPGRADES_MAX, FORWARD_WAIT_MS_MAX,
};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ApiOptions;
use super::answer::Answer;
use super::auth::Caller;
use super::body::Sent;
use super::route::{self, Api, too_many};
use super::serve::{self, Working};
use super::shares::Shares;
use crate::io::peer::Connection;
use crate::io::tls::{ApiTls, BoardPeer};

/// How long a request waits for somebody who leads.
const WAIT: Duration = Duration::from_millis(FORWARD_WAIT_MS_MAX);

/// How long a request that was sent outlasts the silence of the leader that has it.
const SILENT: Duration = Duration::from_millis(FORWARD_WAIT_MS_MAX / 2);

/// Answers the clients of a master, whoever leads; clones are one.
#[derive(Clone, Default)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    seat: watch::Sender<Seat>,
    seats: AtomicU64,
    /// Requests that are passed on and not answered yet.
    requests: Semaphore,
    /// How much of them all, and of their bodies, a user may have.
    shares: Arc<Shares>,
    /// Connections that may still be passed on as streams.
    upgrades: Arc<Semaphore>,
}

/// Who answers at the moment.
#[derive(Clone, Default)]
struct Seat {
    number: u64,
    who: Who,
}

#[derive(Clone, Default)]
enum Who {
    /// Nobody yet, or nobody any more.
    #[default]
    Nobody,
    /// This master leads.
    Own(Arc<Api>),
    /// Another one does: the connection to it, as soon as there is one.
    Led(watch::Receiver<Option<Connection>>),
    /// Nobody will again.
    Closed,
}

/// Who can be asked.
enum Asked {
    Own(Arc<Api>),
    Leader(Connection),
}

/// A seat behind the gateway; given up when dropped.
pub struct Sitting {
    gateway: Gateway,
    number: u64,
    api: Option<Arc<Api>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            seat: watch::Sender::default(),
            seats: AtomicU64::new(0),
            requests: Semaphore::new(API_REQUESTS_MAX),
            shares: Shares::new(),
            upgrades: Arc::new(Semaphore::new(API_UPGRADES_MAX)),
        }
    }
}

impl Gateway {
    /// Serves clients on these sockets until `shutdown`; the handle ends once the connections have
    /// (within a deadline).
    pub fn serve(
        &self,
        tls: Arc<ApiTls>,
        listeners: Vec<Arc<TcpListener>>,
        shutdown: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        serve::start(self.clone(), tls, listeners, shutdown)
    }

    /// This master leads, with this API, whose watches end when `shutdown` turns true.
    pub fn lead(&self, options: ApiOptions, shutdown: watch::Receiver<bool>) -> Sitting {
        let api = Arc::new(Api::new(options, shutdown));
        let number = self.sit(Who::Own(Arc::clone(&api)));
        Sitting { gateway: self.clone(), number, api: Some(api) }
    }

    /// Another master leads, to which `line` is the connection.
    pub fn follow(&self, line: watch::Receiver<Option<Connection>>) -> Sitting {
        let number = self.sit(Who::Led(line));
        Sitting { gateway: self.clone(), number, api: None }
    }

    /// Nobody will answer any more: who waits for that is told so, and what is passed on ends.
    pub fn close(&self) {
        self.sit(Who::Closed);
    }

    fn sit(&self, who: Who) -> u64 {
        let number = self.0.seats.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.seat.send_replace(Seat { number, who });
        number
    }

    /// Answers one request of a client; never fails.
    pub(super) async fn answer(
        &self,
        caller: Arc<Caller>,
        request: Request<Incoming>,
        working: Working,
    ) -> Answer {
        let own = match &self.0.seat.borrow().who {
            Who::Own(api) => Some(Arc::clone(api)),
            _ => None,
        };
        let request = request.map(Sent::from);
        if let Some(api) = own {
            return route::answer(api, caller, request, working).await;
        }
        let Ok(_slot) = self.0.requests.try_acquire() else { return too_many() };
        Box::pin(forward::answer(self, caller, request, working)).await
    }

    /// Resolves when a board that has a connection here is not admitted any more, as far as this
    /// master judges that: while it leads.
    pub(super) async fn turned_out(&self, board: &BoardPeer) {
        let mut seat = self.0.seat.subscribe();
        loop {
            let own = match &seat.borrow_and_update().who {
                Who::Own(api) => Some(Arc::clone(api)),
                _ => None,
            };
            let judged = async {
                match own {
                    Some(api) => api.turned_out(board).await,
                    None => pending().await,
                }
            };
            // Cancel safety: both only wait. An error means that nobody sits here any more.
            tokio::select! {
                () = judged => return,
                changed = seat.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Waits until somebody can be asked, or until `deadline`.
    async fn asked(&self, deadline: Instant) -> Option<Asked> {
        let mut seat = self.0.seat.subscribe();
        let asking = async {
            loop {
                let who = seat.borrow_and_update().who.clone();
                let led = async {
                    match who {
                        Who::Own(api) => Some(Asked::Own(api)),
                        Who::Led(line) => Some(Asked::Leader(open(line).await)),
                        Who::Nobody => pending().await,
                        Who::Closed => None,
                    }
                };
                // Cancel safety: both only wait.
                tokio::select! {
                    asked = led => return asked,
                    changed = seat.changed() => if changed.is_err() {
                        return None;
                    },
                }
            }
        };
        timeout_at(deadline, asking).await.ok().flatten()
    }

    /// Waits until it is known whether this master leads, or until `deadline`.
    async fn own(&self, deadline: Instant) -> Option<Who> {
        let mut seat = self.0.seat.subscribe();
        let known = |seat: &Seat| !matches!(seat.who, Who::Nobody);
        let known = timeout_at(deadline, seat.wait_for(known)).await.ok()?.ok()?;
        Some(known.who.clone())
    }

    /// Resolves when the leader behind `connection` is none any more: another one leads, or this
    /// master itself, or it has been silent for a while.
    async fn over(self, connection: Connection) {
        let mut seat = self.0.seat.subscribe();
        loop {
            let Who::Led(mut line) = seat.borrow_and_update().who.clone() else { return };
            let led_by_another = async {
                loop {
                    let now = line.borrow_and_update().clone();
                    let silent = match now {
                        Some(now) if !now.is_same(&connection) => return,
                        Some(_) => None,
                        None => Some(SILENT),
                    };
                    let patience = async {
                        match silent {
                            Some(patience) => sleep(patience).await,
                            None => pending().await,
                        }
                    };
                    // Cancel safety: both only wait.
                    tokio::select! {
                        () = patience => return,
                        changed = line.changed() => if changed.is_err() {
                            pending::<()>().await;
                        },
                    }
                }
            };
            // Cancel safety: all of them only wait. An error means that nobody sits here any more.
            tokio::select! {
                () = led_by_another => return,
                () = connection.closed() => return,
                changed = seat.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// The connection to the leader, once there is one.
async fn open(mut line: watch::Receiver<Option<Connection>>) -> Connection {
    loop {
        let now = line.borrow_and_update().clone();
        if let Some(connection) = now.filter(|now| !now.is_closed()) {
            return connection;
        }
        if line.changed().await.is_err() {
            // Whoever followed the leader has ended: somebody else will sit here.
            return pending().await;
        }
    }
}

impl Sitting {
    /// Gives the seat up, then lets the requests under way finish, within a deadline.
    pub async fn leave(self) {
        let api = self.api.clone();
        drop(self);
        let Some(api) = api else { return };
        let finished = pin!(api.requests.acquire_many(API_REQUESTS_MAX as u32));
        // What is still under way then is answered, or not, by the store.
        let _late = timeout(Duration::from_secs(API_STOP_SECONDS_MAX), finished).await;
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let number = self.number;
        self.gateway.0.seat.send_if_modified(|seat| {
            // Another one may sit there by now.
            let is_ours = seat.number == number;
            if is_ours {
                seat.who = Who::Nobody;
            }
            is_ours
        });
    }
}
