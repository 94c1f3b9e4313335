//! Who can be asked for a stream, and which streams were asked for.
//!
//! ```text
//! open ──▶ issued id ──frame──▶ board ──POST id──▶ take ──▶ chunks flow ──▶ all ends dropped
//!             │ 10 s, or the board's connection ends
//!             └──▶ the asker gets a sentence
//! ```
//! The master's own board has no connection: its streams go over the in-memory link.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use model::limits::{
    TUNNEL_BEGIN_SECONDS_MAX, TUNNEL_FRAME_BYTES_MAX, TUNNEL_FRAMES_MAX, TUNNEL_STREAMS_MAX,
};
use model::wire::{self, Header, LogsRequestV1, MessageKind, StreamRequestV1};
use tokio::sync::mpsc;

use crate::io::link::{Gate, StreamAnswer, StreamInput, StreamOpen};
use crate::master::api::LogSource;

/// The streams to all boards; clones share them.
#[derive(Clone, Debug)]
pub struct Streams {
    epoch: u64,
    term: u64,
    shared: Arc<Shared>,
    gate: Gate,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    boards: HashMap<String, Board>,
    /// Streams that were asked for and have not begun.
    issued: HashMap<u64, Issued>,
    /// The last id of a stream or connection that was given away.
    last_id: u64,
}

#[derive(Debug)]
struct Board {
    way: Way,
    /// Streams asked for or under way over this connection.
    open: usize,
}

#[derive(Debug)]
enum Way {
    Link(mpsc::Sender<StreamOpen>),
    Tunnel { connection: u64, frames: mpsc::Sender<Result<Bytes, String>> },
}

#[derive(Debug)]
struct Issued {
    board: String,
    connection: u64,
    answer: StreamAnswer,
    input: Option<StreamInput>,
}

/// A stream that a board may not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYours {
    /// Nobody waits for it, or no longer.
    #[error("nobody waits for this stream")]
    Unknown,
    /// It was asked of another board.
    #[error("this stream was asked of another board")]
    Foreign,
}

impl Streams {
    /// No board yet; requests are made in the name of this leader.
    pub fn new(epoch: u64, term: u64) -> Self {
        Self { epoch, term, shared: Arc::default(), gate: Gate::open() }
    }

    /// Boards are asked for nothing once this gate is shut.
    pub fn gated(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// The board of this very process.
    pub fn register(&self, board: &str, streams: mpsc::Sender<StreamOpen>) {
        let way = Way::Link(streams);
        self.shared.state().boards.insert(board.to_owned(), Board { way, open: 0 });
    }

    /// A board that has connected; an earlier connection of the same board ends.
    pub fn connect(&self, board: &str) -> Requests {
        let (frames, receiver) = mpsc::channel(TUNNEL_FRAMES_MAX);
        let mut state = self.shared.state();
        let connection = state.next_id();
        let way = Way::Tunnel { connection, frames };
        state.boards.insert(board.to_owned(), Board { way, open: 0 });
        state.lose(board, connection);
        drop(state);
        let gone = Gone { shared: self.shared.clone(), board: board.to_owned(), connection };
        Requests { frames: receiver, gone }
    }

    /// Whether this board can be asked.
    pub fn reaches(&self, board: &str) -> bool {
        self.shared.state().boards.contains_key(board)
    }

    /// Asks a board for a stream. A reader that drops its end ends the stream on the board.
    ///
    /// # Errors
    /// Why the board cannot be asked now, as a sentence.
    pub fn open(&self, board: &str, open: StreamOpen) -> Result<(), String> {
        if !self.gate.is_open() {
            return Err("this master does not lead any more: ask again".to_owned());
        }
        let mut state = self.shared.state();
        let id = state.next_id();
        let Some(known) = state.boards.get_mut(board) else {
            return Err(format!("board {board:?} is not connected to this master"));
        };
        let busy = || format!("board {board:?} does not take further streams at the moment");
        let (frames, connection) = match &known.way {
            Way::Link(streams) => {
                // It waits for the agent, as long as that may take.
                let open = StreamOpen { gate: self.gate.clone(), ..open };
                return streams.try_send(open).map_err(|_| busy());
            }
            Way::Tunnel { frames, connection } => (frames, *connection),
        };
        if known.open >= TUNNEL_STREAMS_MAX {
            return Err(busy());
        }
        let StreamOpen { request, answer, input, gate: _ } = open;
        let frame = wire::frame(id, &request);
        if frame.len() > TUNNEL_FRAME_BYTES_MAX {
            return Err("the request is too large".to_owned());
        }
        frames.try_send(Ok(frame.into())).map_err(|_| busy())?;
        known.open += 1;
        state.issued.insert(id, Issued { board: board.to_owned(), connection, answer, input });
        drop(state);
        tokio::spawn(expire(Arc::downgrade(&self.shared), id));
        Ok(())
    }

    /// A board begins to answer.
    ///
    /// # Errors
    /// The stream is not this board's.
    pub fn take(&self, board: &str, id: u64) -> Result<Taken, NotYours> {
        let mut state = self.shared.state();
        let Entry::Occupied(issued) = state.issued.entry(id) else { return Err(NotYours::Unknown) };
        if issued.get().board != board {
            return Err(NotYours::Foreign);
        }
        let Issued { board, connection, answer, input } = issued.remove();
        let shared = self.shared.clone();
        Ok(Taken { answer, input, _slot: Slot { shared, board, connection } })
    }

    /// Asks a board for a stream of this kind.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn ask(
        &self,
        board: &str,
        request: &StreamRequestV1,
        answer: StreamAnswer,
    ) -> Result<(), String> {
        let (request, gate) = (self.encode(request), Gate::open());
        self.open(board, StreamOpen { request, answer, input: None, gate })
    }

    fn encode(&self, request: &StreamRequestV1) -> Bytes {
        let Self { epoch, term, .. } = *self;
        let header = Header { kind: MessageKind::Stream, epoch, term, sequence: 0 };
        wire::encode(header, request).into()
    }
}

impl LogSource for Streams {
    fn open(&self, node: &str, request: LogsRequestV1, answer: StreamAnswer) -> Result<(), String> {
        self.ask(node, &StreamRequestV1::Logs(request), answer)
    }

    fn exchange(
        &self,
        node: &str,
        request: &StreamRequestV1,
        answer: StreamAnswer,
        input: StreamInput,
    ) -> Result<(), String> {
        let request = self.encode(request);
        Streams::open(
            self,
            node,
            StreamOpen { request, answer, input: Some(input), gate: Gate::open() },
        )
    }
}

/// What a connected board is asked for.
#[derive(Debug)]
pub struct Requests {
    frames: mpsc::Receiver<Result<Bytes, String>>,
    gone: Gone,
}

impl Requests {
    /// Frames of `model::wire`, which end when the board connects anew; and what is to be dropped
    /// when its connection ends.
    pub fn split(self) -> (mpsc::Receiver<Result<Bytes, String>>, Gone) {
        (self.frames, self.gone)
    }
}

/// A stream that has begun.
#[derive(Debug)]
pub struct Taken {
    /// Where the chunks go.
    pub answer: StreamAnswer,
    /// What the board is sent meanwhile, when it was asked for a duplex stream.
    pub input: Option<StreamInput>,
    _slot: Slot,
}

/// A connection of a board; its end, when this is dropped, ends what was asked over it.
#[derive(Debug)]
pub struct Gone {
    shared: Arc<Shared>,
    board: String,
    connection: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.connection_of(&self.board) == Some(self.connection) {
            state.boards.remove(&self.board);
        }
        // One of a later connection keeps what was asked over that.
        state.lose_of(&self.board, |connection| connection == self.connection);
    }
}

/// Counts a stream for as long as it lives.
#[derive(Debug)]
struct Slot {
    shared: Arc<Shared>,
    board: String,
    connection: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.state().release(&self.board, self.connection);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn connection_of(&self, board: &str) -> Option<u64> {
        match self.boards.get(board)?.way {
            Way::Link(_) => None,
            Way::Tunnel { connection, .. } => Some(connection),
        }
    }

    fn release(&mut self, board: &str, connection: u64) {
        if self.connection_of(board) == Some(connection)
            && let Some(board) = self.boards.get_mut(board)
        {
            board.open = board.open.saturating_sub(1);
        }
    }

    /// Ends what was asked of a board over other connections than this.
    fn lose(&mut self, board: &str, connection: u64) {
        self.lose_of(board, |other| other != connection);
    }

    fn lose_of(&mut self, board: &str, lost: impl Fn(u64) -> bool) {
        let is_lost = |issued: &Issued| issued.board == board && lost(issued.connection);
        for (_, issued) in self.issued.extract_if(|_, issued| is_lost(issued)) {
            let text = format!("the connection to board {board:?} was lost");
            // A reader that takes nothing has gone or will see the end.
            drop(issued.answer.try_send(Err(text)));
        }
    }
}

/// Gives up a stream that does not begin.
async fn expire(shared: Weak<Shared>, id: u64) {
    tokio::time::sleep(Duration::from_secs(TUNNEL_BEGIN_SECONDS_MAX)).await;
    let Some(shared) = shared.upgrade() else { return };
    let mut state = shared.state();
    let Some(issued) = state.issued.remove(&id) else { return };
    let Issued { board, connection, answer, .. } = issued;
    state.release(&board, connection);
    let text = format!("board {board:?} did not answer within {TUNNEL_BEGIN_SECONDS_MAX} s");
    drop(answer.try_send(Err(text)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Streams {
        Streams::new(1, 2)
    }

    fn open(streams: &Streams, board: &str) -> Result<crate::io::image::Chunks, String> {
        let (answer, chunks) = mpsc::channel(4);
        let request = Bytes::from_static(b"request");
        streams
            .open(board, StreamOpen { request, answer, input: None, gate: Gate::open() })
            .map(|()| chunks)
    }

    async fn id(requests: &mut Requests) -> u64 {
        let bytes = requests.frames.recv().await.expect("asked").expect("a frame");
        wire::Frames::default().take(&bytes).expect("a frame")[0].id
    }

    #[tokio::test]
    async fn a_stream_is_answered_once_and_only_by_its_board() {
        let streams = streams();
        let mut one = streams.connect("one");
        let _two = streams.connect("two");
        let mut chunks = open(&streams, "one").expect("connected");
        let id = id(&mut one).await;
        assert_eq!(streams.take("two", id).err(), Some(NotYours::Foreign));
        assert_eq!(streams.take("one", id + 100).err(), Some(NotYours::Unknown));
        let taken = streams.take("one", id).expect("its own");
        taken.answer.send(Ok(Bytes::from_static(b"hi"))).await.expect("read");
        assert_eq!(streams.take("one", id).err(), Some(NotYours::Unknown), "a second time");
        drop(taken);
        assert_eq!(chunks.recv().await, Some(Ok(Bytes::from_static(b"hi"))));
        assert_eq!(chunks.recv().await, None, "it ends with its sender");
    }

    #[tokio::test]
    async fn who_is_not_there_cannot_be_asked() {
        let streams = streams();
        let text = open(&streams, "one").expect_err("nobody");
        assert_eq!(text, "board \"one\" is not connected to this master");
        let requests = streams.connect("one");
        let mut chunks = open(&streams, "one").expect("connected");
        drop(requests);
        let lost = Err("the connection to board \"one\" was lost".to_owned());
        assert_eq!(chunks.recv().await, Some(lost));
        assert!(open(&streams, "one").is_err());
    }

    #[tokio::test]
    async fn a_second_connection_of_a_board_takes_over() {
        let streams = streams();
        let mut first = streams.connect("one");
        let mut before = open(&streams, "one").expect("connected");
        let old = id(&mut first).await;
        let mut second = streams.connect("one");
        assert!(first.frames.recv().await.is_none(), "the first is told that it is over");
        assert!(before.recv().await.expect("an end").is_err());
        assert_eq!(streams.take("one", old).err(), Some(NotYours::Unknown));
        let _after = open(&streams, "one").expect("connected");
        drop(first);
        let id = id(&mut second).await;
        streams.take("one", id).expect("the end of the first leaves the second alone");
    }

    #[tokio::test]
    async fn streams_of_a_board_are_counted() {
        let streams = streams();
        let mut requests = streams.connect("one");
        let mut all = Vec::new();
        for _ in 0..TUNNEL_STREAMS_MAX {
            let chunks = open(&streams, "one").expect("room");
            let id = id(&mut requests).await;
            all.push((chunks, streams.take("one", id).expect("its own")));
        }
        assert!(open(&streams, "one").is_err(), "one too many");
        all.pop();
        open(&streams, "one").expect("room again");
    }

    #[tokio::test]
    async fn frames_that_a_board_does_not_take_are_bounded() {
        let streams = streams();
        let _requests = streams.connect("one");
        let all: Vec<_> = (0..=TUNNEL_FRAMES_MAX).map(|_| open(&streams, "one")).collect();
        assert_eq!(all.iter().filter(|one| one.is_err()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_that_does_not_answer_is_given_up() {
        let streams = streams();
        let mut requests = streams.connect("one");
        let mut chunks = open(&streams, "one").expect("connected");
        let id = id(&mut requests).await;
        let late = Err("board \"one\" did not answer within 10 s".to_owned());
        assert_eq!(chunks.recv().await, Some(late));
        assert_eq!(streams.take("one", id).err(), Some(NotYours::Unknown));
    }
}
