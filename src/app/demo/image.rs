//! The demo's image: kumquat's own binary, packed on the spot.

use anyhow::{Context, Result};
use http::Method;

use super::bed::Bed;
use crate::io::control::{Client, PieceWriter, stream_body};
use crate::io::image::build::{SingleFile, write_archive};

const IMAGE: &str = "kumquat.dev/hello:v1";

/// Packs this very binary as an OCI archive and imports it on the board.
pub(super) async fn import(bed: &Bed) -> Result<()> {
    let (mut writer, pieces) = PieceWriter::new();
    let packing = tokio::task::spawn_blocking(move || {
        let file = SingleFile {
            name: IMAGE,
            program: std::path::Path::new("/proc/self/exe"),
            path: "kumquat",
            links: &[],
            entrypoint: &["/kumquat", "hello"],
        };
        write_archive(&file, &mut writer)
    });
    let client = Client::new(&bed.dirs().socket());
    let sent = client.send(Method::POST, "/v1/images", stream_body(pieces)).await;
    packing.await?.context("cannot pack the demo's image")?;
    sent.context("cannot import the demo's image")?;
    println!("  imported {IMAGE}, made from this binary");
    Ok(())
}
