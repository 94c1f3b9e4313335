//! `/v1/upgrade` on the control socket and, for other masters, on the port for boards.
//!
//! ```text
//! POST /v1/upgrade            an `UpgradeAskV1`; lines of `LineV1` come back as it goes
//! PUT  /v1/upgrade/<sha256>   a file that the leader lacks
//! ```
//! Only masters may pass that on: whoever gives boards a binary has their root. A worker may not.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use model::limits::{
    UPGRADE_ASK_BYTES_MAX, UPGRADE_FILE_BYTES_MAX, UPGRADE_FILES_MAX, UPGRADE_LINES_MAX,
    UPGRADE_READY_SECONDS_MAX,
};
use model::upgrade::UpgradeAskV1;
use tokio::sync::mpsc;

use super::board::blocking;
use super::rollout::Rollout;
use crate::io::control::{self, stream_body};
use crate::io::exchange::Staging;
use crate::io::image::Digest;
use crate::io::peer;
use crate::io::tls::BoardPeer;

/// Where it is asked.
pub(in crate::app) const PATH: &str = "/v1/upgrade";

/// Lines of an answer, or its refusal.
type Answer = Result<mpsc::Receiver<Bytes>, (StatusCode, String)>;

/// Whether a path is answered here.
pub(in crate::app) fn takes(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers the control socket of the leader.
pub(in crate::app) async fn from_control(
    rollout: &Rollout,
    request: Request<Incoming>,
) -> Response<control::Body> {
    match answer(rollout, request).await {
        Ok(mut lines) => {
            let (sender, pieces) = mpsc::channel(UPGRADE_LINES_MAX);
            tokio::spawn(async move {
                while let Some(line) = lines.recv().await {
                    if sender.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
            });
            Response::new(stream_body(pieces))
        }
        Err((status, text)) => crate::app::control::refusal(status, &text),
    }
}

/// Answers another master.
pub(in crate::app) async fn from_master(
    rollout: &Rollout,
    board: &BoardPeer,
    request: Request<Incoming>,
) -> Response<peer::Body> {
    if !board.is_master || !rollout.is_member(&board.name, &board.key) {
        return peer::text(StatusCode::FORBIDDEN, "only masters pass an upgrade on");
    }
    match answer(rollout, request).await {
        Ok(mut lines) => {
            let (sender, chunks) = mpsc::channel(UPGRADE_LINES_MAX);
            tokio::spawn(async move {
                while let Some(line) = lines.recv().await {
                    if sender.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
            });
            Response::new(peer::chunks(chunks, ()))
        }
        Err((status, text)) => peer::text(status, text),
    }
}

async fn answer(rollout: &Rollout, request: Request<Incoming>) -> Answer {
    let bad = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
    let path = request.uri().path().to_owned();
    let file = path.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/'));
    match (request.method(), file) {
        (&Method::POST, None) => {
            let reading = peer::read(request.into_body(), UPGRADE_ASK_BYTES_MAX);
            let body = reading.await.map_err(|error| bad(&error))?;
            let ask: UpgradeAskV1 =
                serde_json::from_slice(&body).map_err(|error| bad(&error.to_string()))?;
            check(&ask).map_err(|text| bad(&text))?;
            Ok(lines(rollout, ask))
        }
        (&Method::PUT, Some(hex)) => {
            let digest = Digest::from_hex(hex).ok_or_else(|| bad("that is no SHA-256"))?;
            let taken = take(rollout, digest, request.into_body()).await;
            taken.map_err(|text| (StatusCode::INSUFFICIENT_STORAGE, text))?;
            let (_, none) = mpsc::channel(1);
            Ok(none)
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "not with this method".to_owned())),
    }
}

fn check(ask: &UpgradeAskV1) -> Result<(), String> {
    let files = &ask.files;
    let twice = files
        .iter()
        .enumerate()
        .find(|(at, file)| files[..*at].iter().any(|other| other.arch == file.arch));
    if let Some((_, file)) = twice {
        return Err(format!("two files are for {}: name one for each architecture", file.arch));
    }
    let fine = (1..=UPGRADE_FILES_MAX).contains(&files.len())
        && files.iter().all(|file| Digest::from_hex(&file.sha256).is_some())
        && (1..=64).contains(&ask.attempt.len())
        && (1..=UPGRADE_READY_SECONDS_MAX).contains(&ask.ready_seconds);
    if fine { Ok(()) } else { Err("the leader does not understand that".to_owned()) }
}

/// Starts, or waits for what runs; lines as bytes.
fn lines(rollout: &Rollout, ask: UpgradeAskV1) -> mpsc::Receiver<Bytes> {
    let mut said = rollout.start(ask);
    let (sender, lines) = mpsc::channel(UPGRADE_LINES_MAX);
    tokio::spawn(async move {
        while let Some(line) = said.recv().await {
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            if sender.send(text.into()).await.is_err() {
                return;
            }
        }
    });
    lines
}

async fn take(rollout: &Rollout, digest: Digest, mut body: Incoming) -> Result<(), String> {
    let path = rollout.file(&digest.hex());
    let part = path.with_extension("part");
    let (folder, begun) = (rollout.folder().to_owned(), part.clone());
    let mut staging = blocking(move || {
        std::fs::create_dir_all(&folder)?;
        Staging::begin(&begun, UPGRADE_FILE_BYTES_MAX)
    })
    .await?;
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
        staging = blocking(move || staging.write(&data).map(|()| staging)).await?;
    }
    blocking(move || {
        let _held = staging.finish(&digest.bytes())?;
        std::fs::rename(&part, &path)
    })
    .await
}

#[cfg(test)]
mod tests {
    use model::upgrade::UpgradeFileV1;

    use super::*;

    #[test]
    fn what_cannot_be_is_refused_before_anything_begins() {
        let file = |arch: &str| UpgradeFileV1 {
            sha256: Digest::of(arch.as_bytes()).hex(),
            bytes: 1,
            arch: arch.to_owned(),
        };
        let ask = |files: Vec<UpgradeFileV1>| UpgradeAskV1 {
            attempt: "a".to_owned(),
            files,
            dry_run: false,
            ready_seconds: 60,
        };
        assert_eq!(check(&ask(vec![file("arm"), file("aarch64")])), Ok(()));
        assert!(check(&ask(vec![file("arm"), file("arm")])).expect_err("twice").contains("arm"));
        assert!(check(&ask(Vec::new())).is_err());
        assert!(check(&UpgradeAskV1 { ready_seconds: 0, ..ask(vec![file("arm")]) }).is_err());
        let odd = UpgradeFileV1 { sha256: "../../etc".to_owned(), ..file("arm") };
        assert!(check(&ask(vec![odd])).is_err());
        assert!(takes("/v1/upgrade") && takes("/v1/upgrade/ab") && !takes("/v1/upgrades"));
    }
}
