//! The link between master and board on the same board: two bounded queues of encoded messages.
//!
//! It carries the very bytes that the bus carries between boards, so that one board and ten run the
//! same code. Streams (logs, exec) open a queue of raw chunks each, or one each way, as the tunnel does
//! between boards.
//!
//! A board that gains or loses the lead exchanges the master's end: the agent's end is that of a
//! [`Socket`], in which one master's end is plugged at a time. Invariant: once another end is plugged,
//! the earlier one is closed both ways, and what it had not handed over yet never arrives.
//!
//! A leader whose time has run out may be the last to notice: the process was frozen, say, with a message
//! already handed over. So what the board's own leader sends carries the leader's [`Gate`], and the
//! agent asks it when it takes it, after the last queue.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use model::limits::LINK_FRAMES_MAX;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::AbortHandle;

/// The other end is gone.
#[derive(Debug, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

/// Where the chunks of a stream go; an error ends the stream and is what the client is told.
pub type StreamAnswer = mpsc::Sender<Result<Bytes, String>>;

/// What the master sends on a duplex stream; its end means that nobody reads the answer any more.
pub type StreamInput = mpsc::Receiver<Result<Bytes, String>>;

/// A stream that the master opens: the encoded request, and where the answer goes.
#[derive(Debug)]
pub struct StreamOpen {
    /// An encoded `wire::StreamRequestV1` message.
    pub request: Bytes,
    /// Chunks of the answer.
    pub answer: StreamAnswer,
    /// What comes from the master meanwhile; `None` for requests that are answered only.
    pub input: Option<StreamInput>,
    /// Shut once the request is no longer to be acted on.
    pub gate: Gate,
}

/// The master's end.
#[derive(Debug)]
pub struct MasterEnd {
    /// Messages to the board.
    pub down: mpsc::Sender<ToBoard>,
    /// Messages from the board.
    pub up: mpsc::Receiver<Bytes>,
    /// Opens streams.
    pub streams: mpsc::Sender<StreamOpen>,
}

/// The board's end.
#[derive(Debug)]
pub struct BoardEnd {
    /// Messages from the master.
    pub down: mpsc::Receiver<ToBoard>,
    /// Messages to the master.
    pub up: mpsc::Sender<Bytes>,
    /// Streams that the master opened.
    pub streams: mpsc::Receiver<StreamOpen>,
}

/// A message to the board.
#[derive(Clone, Debug)]
pub struct ToBoard {
    /// What is said, encoded.
    pub message: Bytes,
    /// Shut once the message is no longer to be acted on.
    pub gate: Gate,
}

impl From<Bytes> for ToBoard {
    fn from(message: Bytes) -> Self {
        Self { message, gate: Gate::open() }
    }
}

/// Whether whoever acts as leader may still do so; asked before every act. Clones are the same.
#[derive(Clone)]
pub struct Gate(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Gate {
    /// Open as long as `may_act` says so, which must be quick.
    pub fn new(may_act: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(may_act)))
    }

    /// A gate that is never shut.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether it lets anything pass at this moment.
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|may_act| may_act())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.is_open()).finish()
    }
}

impl MasterEnd {
    /// An end over which no message gets to the board any more once the gate is shut: what meets a shut
    /// gate is dropped, and messages take the gate along. Whoever opens streams asks it, too. Needs a
    /// tokio runtime.
    pub fn gated(self, gate: &Gate) -> Self {
        let (messages, said) = mpsc::channel(LINK_FRAMES_MAX);
        tokio::spawn(pass_through(said, self.down, gate.clone()));
        Self { down: messages, ..self }
    }
}

/// Ends with either end.
async fn pass_through(mut from: mpsc::Receiver<ToBoard>, to: mpsc::Sender<ToBoard>, gate: Gate) {
    loop {
        // Cancel safety: a message is taken only when it is there; nobody comes back after `closed`.
        let message = tokio::select! {
            message = from.recv() => message,
            () = to.closed() => return,
        };
        let Some(told) = message else { return };
        let told = ToBoard { gate: gate.clone(), ..told };
        if gate.is_open() && to.send(told).await.is_err() {
            return;
        }
    }
}

/// A connected pair.
pub fn pair() -> (MasterEnd, BoardEnd) {
    let (down_sender, down_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    let (up_sender, up_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    let (stream_sender, stream_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    (
        MasterEnd { down: down_sender, up: up_receiver, streams: stream_sender },
        BoardEnd { down: down_receiver, up: up_sender, streams: stream_receiver },
    )
}

/// The board's end, and what the master's ends are plugged into. Needs a tokio runtime when one is.
pub fn socket() -> (Socket, BoardEnd) {
    let (MasterEnd { down, up, streams }, board) = pair();
    let up = Arc::new(AsyncMutex::new(up));
    (Socket { down, up, streams, plugged: Mutex::default() }, board)
}

/// Where the master's end of a board's link is exchanged. The board's end closes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    down: mpsc::Sender<ToBoard>,
    /// Held by whoever carries what the board says.
    up: Arc<AsyncMutex<mpsc::Receiver<Bytes>>>,
    streams: mpsc::Sender<StreamOpen>,
    plugged: Mutex<Option<AbortHandle>>,
}

impl Socket {
    /// A fresh master's end; the one before is closed.
    pub fn plug(&self) -> MasterEnd {
        let (master, plugged) = pair();
        let (down, up, streams) = (self.down.clone(), self.up.clone(), self.streams.clone());
        let mut current = self.plugged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = current.take() {
            earlier.abort();
        }
        let carrying = tokio::spawn(carry(plugged, down, up, streams));
        *current = Some(carrying.abort_handle());
        master
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(last) = self.plugged.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            last.abort();
        }
    }
}

/// Carries between a plugged end and the board until the board is gone. What the board says while the
/// master's end is closed is dropped: the versions in the beats repair it.
async fn carry(
    plugged: BoardEnd,
    to_board: mpsc::Sender<ToBoard>,
    of_board: Arc<AsyncMutex<mpsc::Receiver<Bytes>>>,
    to_streams: mpsc::Sender<StreamOpen>,
) {
    let BoardEnd { down, up, streams } = plugged;
    let upward = async {
        // The end before gives it back when it has ended.
        let mut of_board = of_board.lock().await;
        while let Some(message) = of_board.recv().await {
            // An error means that the master's end is closed.
            let _dropped = up.send(message).await;
        }
    };
    let downward = async {
        tokio::join!(pass_on(down, to_board), pass_on(streams, to_streams));
        std::future::pending::<()>().await;
    };
    // Cancel safety: the link is over when the board is gone.
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}

async fn pass_on<T>(mut from: mpsc::Receiver<T>, to: mpsc::Sender<T>) {
    while let Some(message) = from.recv().await {
        if to.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn say(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn heard(board: &mut BoardEnd) -> Option<Bytes> {
        soon(board.down.recv()).await.map(|told| told.message)
    }

    async fn soon<T>(waiting: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time")
    }

    #[tokio::test]
    async fn the_board_does_not_notice_that_its_master_is_exchanged() {
        let (socket, mut board) = socket();
        let mut first = socket.plug();
        first.down.send(say("one").into()).await.expect("room");
        assert_eq!(heard(&mut board).await, Some(say("one")));
        board.up.send(say("up")).await.expect("room");
        assert_eq!(soon(first.up.recv()).await, Some(say("up")));
        let mut second = socket.plug();
        soon(first.down.closed()).await;
        assert_eq!(soon(first.up.recv()).await, None, "the earlier end is closed");
        board.up.send(say("again")).await.expect("room");
        assert_eq!(soon(second.up.recv()).await, Some(say("again")));
        let (answer, _chunks) = mpsc::channel(1);
        let open = StreamOpen { request: say("logs"), answer, input: None, gate: Gate::open() };
        second.streams.send(open).await.expect("room");
        assert_eq!(soon(board.streams.recv()).await.map(|open| open.request), Some(say("logs")));
        second.down.send(say("two").into()).await.expect("room");
        assert_eq!(heard(&mut board).await, Some(say("two")));
    }

    #[tokio::test]
    async fn without_a_master_the_link_never_fills() {
        let (socket, mut board) = socket();
        drop(socket.plug());
        for _ in 0..4 * LINK_FRAMES_MAX {
            soon(board.up.send(say("beat"))).await.expect("the board's end is open");
        }
        let mut master = socket.plug();
        board.up.send(say("last")).await.expect("room");
        let mut last = None;
        while last != Some(say("last")) {
            last = soon(master.up.recv()).await;
        }
        master.down.send(say("down").into()).await.expect("room");
        assert_eq!(heard(&mut board).await, Some(say("down")));
    }

    #[tokio::test]
    async fn nothing_passes_a_gate_that_is_shut() {
        let open = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let may_act = Arc::clone(&open);
        let gate = Gate::new(move || may_act.load(std::sync::atomic::Ordering::SeqCst));
        let (master, mut board) = pair();
        let mut gated = master.gated(&gate);
        gated.down.send(say("one").into()).await.expect("room");
        assert_eq!(heard(&mut board).await, Some(say("one")));
        gated.down.send(say("two").into()).await.expect("room");
        let two = soon(board.down.recv()).await.expect("a message");
        assert!(two.gate.is_open());
        open.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(!two.gate.is_open(), "what had passed is not to be acted on any more");
        gated.down.send(say("late").into()).await.expect("dropped behind the gate");
        board.up.send(say("up")).await.expect("room");
        assert_eq!(soon(gated.up.recv()).await, Some(say("up")), "hearing is no act");
        drop(gated);
        assert_eq!(heard(&mut board).await, None, "it never came");
    }

    #[tokio::test]
    async fn the_end_of_one_side_is_the_end_of_the_other() {
        let (without_master, mut board) = socket();
        let end = without_master.plug();
        drop(without_master);
        assert_eq!(heard(&mut board).await, None);
        soon(end.down.closed()).await;
        let (socket, board) = socket();
        let mut end = socket.plug();
        drop(board);
        assert_eq!(soon(end.up.recv()).await, None);
    }
}
