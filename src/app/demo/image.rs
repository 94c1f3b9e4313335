//! The demo's image: kumquat's own binary, packed on the spot.

use anyhow::{Context, Result};
use http::Method;
use tokio::sync::mpsc;

use super::bed::Bed;
use crate::io::control::{Client, stream_body};
use crate::io::image::build::{SingleFile, write_archive};

const IMAGE: &str = "kumquat.dev/hello:v1";
const PIECES_MAX: usize = 4;

/// Packs this very binary as an OCI archive and imports it on the board.
pub(super) async fn import(bed: &Bed) -> Result<()> {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let packing = tokio::task::spawn_blocking(move || {
        let file = SingleFile {
            name: IMAGE,
            program: std::path::Path::new("/proc/self/exe"),
            path: "kumquat",
            links: &[],
            entrypoint: &["/kumquat", "hello"],
        };
        write_archive(&file, &mut ChannelWriter(sender))
    });
    let client = Client::new(&bed.dirs().socket());
    let sent = client.send(Method::POST, "/v1/images", stream_body(pieces)).await;
    packing.await?.context("cannot pack the demo's image")?;
    sent.context("cannot import the demo's image")?;
    println!("  imported {IMAGE}, made from this binary");
    Ok(())
}

/// Hands what is written to the sender of a request's body.
struct ChannelWriter(mpsc::Sender<std::io::Result<bytes::Bytes>>);

impl std::io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = bytes::Bytes::copy_from_slice(bytes);
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(piece)).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
