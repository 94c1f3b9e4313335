//! One master's stream to another: questions out in order, answers back in any order.
//!
//! ```text
//! idle --a question--> connecting --stream open--> open --broke, or 60 s without a question--> over
//!                          \--nobody there--> over: everyone who waits is told
//! ```
//! The line that is over is forgotten; the next question makes a new one, so that pauses between tries
//! are the engine's. A bounded number of questions wait for answers; one more waits for its turn.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use model::limits::{GROUP_ANSWER_BYTES_MAX, GROUP_ASKS_MAX, PEER_REFUSAL_BYTES_MAX};
use model::masters::{AnswerFrameV1, AskFrameV1, GroupAnswerV1, GroupAskV1, MemberId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::frames::{Frames, framed};
use super::{CONNECT_WITHIN, Elector, STREAM};
use crate::io::peer::{self, Connection};

/// A stream that carries nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A link that is cut is given up so soon: the first try after it is mended gets through, and waits for
/// no packet that is sent again ever more rarely.
const UNANSWERED: Duration = Duration::from_secs(1);
/// Frames on their way to the socket: more wait with whoever asks.
const FRAMES_QUEUE: usize = 4;

/// The way to one master; clones are the same.
#[derive(Clone)]
pub(super) struct Line {
    questions: mpsc::Sender<Question>,
    /// Why it ended, once it has.
    why: Arc<OnceLock<String>>,
}

struct Question {
    ask: GroupAskV1,
    answer: oneshot::Sender<Result<GroupAnswerV1, String>>,
}

impl Line {
    /// Connects in the background, on the runtime of whoever asks.
    pub(super) fn start(elector: Arc<Elector>, to: MemberId) -> Self {
        let (questions, asked) = mpsc::channel(GROUP_ASKS_MAX);
        let why = Arc::default();
        tokio::spawn(serve(elector, to, asked, Arc::clone(&why)));
        Self { questions, why }
    }

    /// Whether it has ended: a new one has to be made.
    pub(super) fn is_over(&self) -> bool {
        self.questions.is_closed()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Cancel safety
    /// The question may arrive all the same.
    pub(super) async fn ask(&self, ask: GroupAskV1) -> Result<GroupAnswerV1, String> {
        let over = || match self.why.get() {
            Some(why) => why.clone(),
            None => "the connection ended".to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { ask, answer }).await.map_err(|_| over())?;
        answered.await.map_err(|_| over())?
    }
}

async fn serve(
    elector: Arc<Elector>,
    to: MemberId,
    mut asked: mpsc::Receiver<Question>,
    ended: Arc<OnceLock<String>>,
) {
    let why = match open(&elector, to).await {
        Ok((connection, sender, answers)) => {
            let why = converse(&elector, to, &mut asked, sender, answers).await;
            drop(connection);
            why
        }
        Err(why) => why,
    };
    tracing::debug!(%to, why, "stream to another master ended");
    let why = ended.get_or_init(|| why);
    asked.close();
    while let Ok(question) = asked.try_recv() {
        // Whoever asked may have gone.
        let _ = question.answer.send(Err(why.clone()));
    }
}

type FrameSender = mpsc::Sender<Result<bytes::Bytes, String>>;

async fn open(
    elector: &Elector,
    to: MemberId,
) -> Result<(Connection, FrameSender, Incoming), String> {
    let connection = elector.connect(to, UNANSWERED).await?;
    let (sender, frames) = mpsc::channel(FRAMES_QUEUE);
    let mut request = Request::new(peer::chunks(frames, ()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(STREAM);
    let late = |_| "it did not take the stream in time".to_owned();
    let answer = timeout(CONNECT_WITHIN, connection.send(request)).await.map_err(late)?;
    let answer = answer.map_err(|error| error.to_string())?;
    elector.hear_met(answer.headers());
    let status = answer.status();
    let body = answer.into_body();
    if status != StatusCode::OK {
        let why = timeout(CONNECT_WITHIN, peer::read(body, PEER_REFUSAL_BYTES_MAX)).await;
        let why = why.ok().and_then(Result::ok).unwrap_or_default();
        return Err(format!("{status}: {}", String::from_utf8_lossy(&why)));
    }
    Ok((connection, sender, body))
}

/// Passes questions and answers until the stream breaks; why it did.
async fn converse(
    elector: &Elector,
    to: MemberId,
    asked: &mut mpsc::Receiver<Question>,
    sender: FrameSender,
    answers: Incoming,
) -> String {
    let mut answers = Frames::new(answers, GROUP_ANSWER_BYTES_MAX);
    let mut waiting: HashMap<u64, oneshot::Sender<Result<GroupAnswerV1, String>>> = HashMap::new();
    let mut sequence = 0u64;
    let mut next: Option<Question> = None;
    let why = loop {
        if waiting.len() >= GROUP_ASKS_MAX {
            // Whoever has given up waits no more.
            waiting.retain(|_, answer| !answer.is_closed());
        }
        let has_room = next.is_none() && waiting.len() < GROUP_ASKS_MAX;
        // Cancel safety: a question in hand is kept in `next`, an answer is read whole or not at all.
        tokio::select! {
            question = asked.recv(), if has_room => match question {
                Some(question) => next = Some(question),
                None => break "this board takes no part any more".to_owned(),
            },
            permit = sender.reserve(), if next.is_some() => {
                let Ok(permit) = permit else { break "the connection ended".to_owned() };
                let Some(Question { ask, answer }) = next.take() else { continue };
                if !answer.is_closed() {
                    sequence += 1;
                    let frame = AskFrameV1 { sequence, head: elector.head(to), ask };
                    waiting.insert(sequence, answer);
                    permit.send(Ok(framed(&frame.encode())));
                }
            }
            answer = answers.next() => match answer {
                Ok(Some(bytes)) => match AnswerFrameV1::decode(&bytes) {
                    Ok(frame) => {
                        elector.options.clock.hear(to, frame.time);
                        if let Some(waiter) = waiting.remove(&frame.sequence) {
                            // Whoever asked may have given up.
                            let _ = waiter.send(Ok(frame.answer));
                        }
                    }
                    Err(error) => break error.to_string(),
                },
                Ok(None) => break "the other master ended the stream".to_owned(),
                Err(why) => break why,
            },
            () = tokio::time::sleep(IDLE) => break "nothing was asked for long".to_owned(),
        }
    };
    let left = next.into_iter().map(|question| question.answer);
    for waiter in waiting.into_values().chain(left) {
        // Whoever asked may have gone.
        let _ = waiter.send(Err(why.clone()));
    }
    why
}
