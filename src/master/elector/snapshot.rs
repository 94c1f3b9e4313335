//! A snapshot on its way: a file, resumed where it broke off, believed when its digest is right.
//!
//! Body of both requests: a frame with an [`AskFrameV1`] that names sender and receiver, a frame with
//! the [`SnapshotHeadV1`], and in the second one the bytes of the file from the offset on. What has
//! arrived lies in `incoming/<digest>.part`; one file at a time, others are removed.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::limits::{GROUP_ANSWER_BYTES_MAX, GROUP_ASK_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX};
use model::masters::{
    AnswerFrameV1, AskFrameV1, FenceV1, GroupAnswerV1, GroupAskV1, MemberId, SnapshotHeadV1,
};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frames::{Frames, framed};
use super::{CONNECT_WITHIN, Elector, OFFSET, SNAPSHOT};
use crate::io::peer::{self, Body};
use crate::io::store::SnapshotFile;
use crate::io::tls::BoardPeer;

/// A chunk that does not move for so long ends the sending.
const MOVES_WITHIN: Duration = Duration::from_secs(10);
/// The receiver syncs the file, reads it back and rebuilds its state.
const INSTALL_WITHIN: Duration = Duration::from_secs(600);
/// Its disk may hold up what arrives.
const UNANSWERED: Duration = MOVES_WITHIN;
/// Chunks between the file and the socket.
const CHUNKS_QUEUE: usize = 2;

/// Sends a snapshot to a member, and waits until it is installed there.
///
/// # Cancel safety
/// What has arrived stays there: the next try goes on behind it.
pub(super) async fn send(
    elector: &Elector,
    to: MemberId,
    file: SnapshotFile,
) -> Result<GroupAnswerV1, String> {
    let connection = elector.connect(to, UNANSWERED).await?;
    let ask = AskFrameV1 { sequence: 0, head: elector.head(to), ask: GroupAskV1::Standing };
    let heads = [framed(&ask.encode()), framed(&file.head.encode())].concat();
    let post = |path: String, body: Body| {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| "bad path".to_owned())?;
        Ok::<_, String>(request)
    };
    let request = post(OFFSET.to_owned(), peer::full(heads.clone()))?;
    let answer = timeout(CONNECT_WITHIN, connection.send(request)).await.map_err(|_| late())?;
    let from = match answered(answer.map_err(|error| error.to_string())?).await? {
        // Its log's end stands for how much of the file is there.
        GroupAnswerV1::Standing { last, .. } => last.map_or(0, |last| last.index),
        other => return Ok(other),
    };
    let (sender, chunks) = mpsc::channel(CHUNKS_QUEUE);
    let request = post(format!("{SNAPSHOT}?from={from}"), peer::chunks(chunks, ()))?;
    let body = async move {
        // The other end says what is wrong when it ends the stream.
        if let Err(why) = pump(&file, from, heads.into(), &sender).await {
            let _ = sender.send(Err(why)).await;
        }
    };
    let answer = timeout(INSTALL_WITHIN, connection.send(request));
    let (answer, ()) = tokio::join!(answer, body);
    let answer = answer.map_err(|_| late())?.map_err(|error| error.to_string())?;
    answered(answer).await
}

fn late() -> String {
    "it did not answer in time".to_owned()
}

async fn answered(answer: Response<Incoming>) -> Result<GroupAnswerV1, String> {
    let status = answer.status();
    let body = timeout(INSTALL_WITHIN, peer::read(answer.into_body(), GROUP_ANSWER_BYTES_MAX));
    let bytes = body.await.map_err(|_| late())??;
    if status != StatusCode::OK {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)));
    }
    let frame = AnswerFrameV1::decode(&bytes).map_err(|error| error.to_string())?;
    Ok(frame.answer)
}

/// Heads and file, as fast as the other end reads.
async fn pump(
    file: &SnapshotFile,
    from: u64,
    heads: Bytes,
    sender: &mpsc::Sender<Result<Bytes, String>>,
) -> Result<(), String> {
    let stuck = |_| "the other end stopped reading".to_owned();
    let push = async |chunk: Bytes| match timeout(MOVES_WITHIN, sender.send(Ok(chunk))).await {
        Ok(sent) => sent.map_err(|_| "the other end stopped reading".to_owned()),
        Err(late) => Err(stuck(late)),
    };
    push(heads).await?;
    let read = |error: std::io::Error| format!("cannot read the snapshot: {error}");
    let mut source = File::open(&file.path).await.map_err(read)?;
    source.seek(SeekFrom::Start(from)).await.map_err(read)?;
    loop {
        let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES_MAX];
        let length = source.read(&mut chunk).await.map_err(read)?;
        if length == 0 {
            return Ok(());
        }
        chunk.truncate(length);
        push(chunk.into()).await?;
    }
}

/// How much of a snapshot is here.
pub(super) async fn offset(elector: &Elector, board: &BoardPeer, body: Incoming) -> Response<Body> {
    let mut frames = Frames::new(body, GROUP_ASK_BYTES_MAX);
    let head = match timeout(MOVES_WITHIN, heads(elector, board, &mut frames)).await {
        Ok(Ok(Ok(head))) => head,
        Ok(Ok(Err(fence))) => return answer(elector, GroupAnswerV1::Refused(fence)),
        Ok(Err(why)) => return peer::text(StatusCode::BAD_REQUEST, why),
        Err(_) => return peer::text(StatusCode::REQUEST_TIMEOUT, "the head did not come in time"),
    };
    let part = part(&elector.options.incoming, &head);
    let here = fs::metadata(&part).await.map_or(0, |metadata| metadata.len()).min(head.bytes);
    let last = Some(model::masters::LogIdV1 { term: 0, index: here });
    answer(elector, GroupAnswerV1::Standing { epoch: elector.options.epoch, vote: head.vote, last })
}

/// Takes a snapshot in and has it installed.
pub(super) async fn receive(
    elector: &Arc<Elector>,
    board: &BoardPeer,
    body: Incoming,
    from: u64,
) -> Response<Body> {
    let Ok(only) = elector.arriving.clone().try_lock_owned() else {
        return peer::text(StatusCode::CONFLICT, "another snapshot is arriving");
    };
    let mut frames = Frames::new(body, GROUP_ASK_BYTES_MAX);
    let head = match timeout(MOVES_WITHIN, heads(elector, board, &mut frames)).await {
        Ok(Ok(Ok(head))) => head,
        Ok(Ok(Err(fence))) => return answer(elector, GroupAnswerV1::Refused(fence)),
        Ok(Err(why)) => return peer::text(StatusCode::BAD_REQUEST, why),
        Err(_) => return peer::text(StatusCode::REQUEST_TIMEOUT, "the head did not come in time"),
    };
    // In a task of its own: when the sender goes away, what is being installed must stay where it is, and
    // nothing else may arrive, until the store is done with it.
    let of_task = Arc::clone(elector);
    let installing = tokio::spawn(async move {
        let installed = take_and_install(&of_task, head, &mut frames, from).await;
        drop(only);
        installed
    });
    match installing.await {
        Ok(Ok(installed)) => answer(elector, installed),
        Ok(Err(why)) => peer::text(StatusCode::BAD_REQUEST, why),
        // This board is going down.
        Err(_) => answer(elector, GroupAnswerV1::Refused(FenceV1::Away)),
    }
}

async fn take_and_install(
    elector: &Elector,
    head: SnapshotHeadV1,
    frames: &mut Frames,
    from: u64,
) -> Result<GroupAnswerV1, String> {
    let path = take_in(&elector.options.incoming, &head, frames, from).await?;
    let Some(group) = elector.group() else {
        return Ok(GroupAnswerV1::Refused(FenceV1::Away));
    };
    let installed = group.install(SnapshotFile { path: path.clone(), head }).await;
    // It was moved, unless it was refused: then nobody wants it.
    let _ = fs::remove_file(&path).await;
    Ok(installed)
}

fn answer(elector: &Elector, answer: GroupAnswerV1) -> Response<Body> {
    let frame = AnswerFrameV1 { sequence: 0, time: elector.options.clock.say(), answer };
    Response::new(peer::full(frame.encode()))
}

type Heads = Result<SnapshotHeadV1, FenceV1>;

async fn heads(elector: &Elector, board: &BoardPeer, frames: &mut Frames) -> Result<Heads, String> {
    let cut = || "the stream ended before the file".to_owned();
    let ask = frames.next().await?.ok_or_else(cut)?;
    let ask = AskFrameV1::decode(&ask).map_err(|error| error.to_string())?;
    let head = frames.next().await?.ok_or_else(cut)?;
    let head = SnapshotHeadV1::decode(&head).map_err(|error| error.to_string())?;
    if let Some(fence) = elector.fence(board, &ask.head) {
        return Ok(Err(fence));
    }
    if head.epoch != elector.options.epoch {
        return Ok(Err(FenceV1::Epoch { is: elector.options.epoch }));
    }
    Ok(Ok(head))
}

fn part(incoming: &Path, head: &SnapshotHeadV1) -> PathBuf {
    let digest: String = head.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    incoming.join(format!("{digest}.part"))
}

/// Writes what comes behind what is here, and checks the whole.
async fn take_in(
    incoming: &Path,
    head: &SnapshotHeadV1,
    frames: &mut Frames,
    from: u64,
) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("cannot store the snapshot: {error}");
    let path = part(incoming, head);
    fs::create_dir_all(incoming).await.map_err(failed)?;
    remove_others(incoming, &path).await.map_err(failed)?;
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(&path).await.map_err(failed)?;
    let mut here = file.metadata().await.map_err(failed)?.len();
    if here != from {
        return Err(format!("{here} bytes are here, not {from}"));
    }
    while here < head.bytes {
        let rest = timeout(MOVES_WITHIN, frames.rest()).await;
        let chunk = rest.map_err(|_| "the file stopped coming".to_owned())??;
        let chunk = chunk.ok_or("the file ended too early")?;
        here += chunk.len() as u64;
        if here > head.bytes {
            break;
        }
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    if here == head.bytes && digest(&path).await.map_err(failed)? == head.sha256 {
        return Ok(path);
    }
    fs::remove_file(&path).await.map_err(failed)?;
    Err("the file is not what its head says".to_owned())
}

async fn remove_others(incoming: &Path, kept: &Path) -> std::io::Result<()> {
    let mut entries = fs::read_dir(incoming).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.path() != kept {
            fs::remove_file(entry.path()).await?;
        }
    }
    Ok(())
}

/// SHA-256 of a file, read as it lies on the disk.
async fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path).await?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES_MAX];
    loop {
        match file.read(&mut chunk).await? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&chunk[..length]),
        }
    }
}
