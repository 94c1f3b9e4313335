//! The receiving end: streams and snapshots of other masters.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::limits::{GROUP_ASK_BYTES_MAX, GROUP_ASKS_MAX};
use model::masters::{AnswerFrameV1, AskFrameV1};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dial::MET;
use super::frames::{Frames, framed};
use super::{Elector, OFFSET, SNAPSHOT, STREAM, snapshot};
use crate::io::peer::{self, Body};
use crate::io::tls::BoardPeer;

/// Answers on their way to the socket.
const ANSWERS_QUEUE: usize = 16;

impl Elector {
    /// Whether a request is for this module.
    pub fn takes(path: &str) -> bool {
        [STREAM, OFFSET, SNAPSHOT].contains(&path)
    }

    /// Answers a request of another master.
    pub async fn answer(
        self: Arc<Self>,
        board: &BoardPeer,
        from: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if request.method() != Method::POST {
            return peer::text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        // The members' list decides on each message; who is not even a master stays outside.
        if !board.is_master {
            return peer::text(StatusCode::FORBIDDEN, "only masters hold the log");
        }
        let met = self.tell_met();
        let is_member = self.note_seen(board, from.ip());
        let from = request.uri().query().and_then(|query| query.strip_prefix("from="));
        let from = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        match request.uri().path() {
            STREAM => {
                if is_member && let Some(group) = self.group() {
                    group.came();
                }
                let (sender, answers) = mpsc::channel(ANSWERS_QUEUE);
                tokio::spawn(serve(self, board.clone(), request.into_body(), sender));
                let mut answer = Response::new(peer::chunks(answers, ()));
                if let Some(met) = met {
                    answer.headers_mut().insert(MET, met);
                }
                answer
            }
            OFFSET => snapshot::offset(&self, board, request.into_body()).await,
            SNAPSHOT => snapshot::receive(&self, board, request.into_body(), from).await,
            _ => peer::text(StatusCode::NOT_FOUND, "not a path of masters"),
        }
    }
}

/// Answers what comes on a stream until it ends; messages are answered side by side.
async fn serve(
    elector: Arc<Elector>,
    board: BoardPeer,
    body: Incoming,
    answers: mpsc::Sender<Result<bytes::Bytes, String>>,
) {
    let mut frames = Frames::new(body, GROUP_ASK_BYTES_MAX);
    let mut answering = JoinSet::new();
    loop {
        let is_full = answering.len() >= GROUP_ASKS_MAX;
        // Cancel safety: a frame is read whole or not at all.
        let frame = tokio::select! {
            frame = frames.next(), if !is_full => frame,
            Some(_) = answering.join_next() => continue,
            () = answers.closed() => return,
        };
        let frame = match frame {
            Ok(Some(bytes)) => AskFrameV1::decode(&bytes).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(why) => Err(why),
        };
        match frame {
            Ok(frame) => {
                let (elector, board, answers) = (elector.clone(), board.clone(), answers.clone());
                answering.spawn(async move {
                    let sequence = frame.sequence;
                    let answer = elector.take(&board, frame).await;
                    let time = elector.options.clock.say();
                    let frame = AnswerFrameV1 { sequence, time, answer };
                    // An error: the stream has ended.
                    let _ = answers.send(Ok(framed(&frame.encode()))).await;
                });
            }
            Err(why) => {
                tracing::debug!(board = board.name, why, "stream of another master ended");
                // An error: it has ended at the other end as well.
                let _ = answers.send(Err(why)).await;
                return;
            }
        }
    }
}
