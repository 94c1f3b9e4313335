//! The content of a backup over the control socket of the leader.
//!
//! It goes out in the open: the socket is root's, who can read the keys on the disk as well. Whoever
//! asks seals it.

use std::io::{Read, Write};

use http::{Response, StatusCode};
use model::limits::BACKUP_RECORD_BYTES;
use serde_json::json;

use super::{MasterSeat, refusal};
use crate::io::backup::Secret;
use crate::io::control::{Body, PieceWriter, json as answer, stream_body};
use crate::io::tls::Pki;

/// Answers `GET /v1/backup`.
pub(super) async fn content(master: &MasterSeat) -> Response<Body> {
    let taken = master.backup.take().await;
    let reader = taken.and_then(|content| Ok(content.into_reader()?));
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
    };
    let (mut writer, pieces) = PieceWriter::new();
    tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; BACKUP_RECORD_BYTES];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    if writer.write_all(&piece[..count]).is_err() {
                        // Whoever asked has gone.
                        return;
                    }
                }
                Err(error) => return writer.fail(error),
            }
        }
    });
    Response::new(stream_body(pieces))
}

/// Answers `GET /v1/backup/key`: every master has the key that it is made from, whoever leads.
pub(super) fn key(pki: &Pki) -> Response<Body> {
    match Secret::of_cluster(&pki.authority_key()) {
        Secret::Recovery(key) => answer(StatusCode::OK, &json!({ "key": key.to_string() })),
        Secret::Passphrase(_) => refusal(StatusCode::NOT_FOUND, "this cluster has no recovery key"),
    }
}
