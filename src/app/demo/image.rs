//! The demo's image: kumquat's own binary, packed on the spot.

use anyhow::{Context, Result, bail};
use http::Method;

use super::bed::Bed;
use super::board::Board;
use crate::io::control::{Client, PieceWriter, stream_body};
use crate::io::image::build::{SingleFile, write_archive};

/// Name of the image.
pub(super) const IMAGE: &str = "kumquat.dev/hello:v1";

/// Packs this very binary as an OCI archive and imports it on the master: the others fetch it.
pub(super) async fn import(bed: &Bed) -> Result<()> {
    if !is_static()? {
        bail!(
            "this kumquat is not a static binary, so it cannot run as the demo's image: \
             build one with `cargo xtask demo`, or cross/build"
        );
    }
    import_on(bed.master()).await?;
    say!("  imported {IMAGE}, made from this binary, on {}", bed.master().name());
    Ok(())
}

async fn import_on(board: &Board) -> Result<()> {
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
    let client = Client::new(&board.dirs().socket());
    let sent = client.send(Method::POST, "/v1/images", stream_body(pieces)).await;
    packing.await?.context("cannot pack the demo's image")?;
    sent.with_context(|| format!("cannot import the demo's image on {}", board.name()))?;
    Ok(())
}

/// Whether this program needs no loader: an ELF file without PT_INTERP (elf(5)).
fn is_static() -> Result<bool> {
    let mut head = [0; 4096];
    let count = std::io::Read::read(&mut std::fs::File::open("/proc/self/exe")?, &mut head)?;
    Ok(!has_interpreter(&head[..count]).unwrap_or(false))
}

fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let wide = *elf.get(4)? == 2;
    // The upper half of a 64-bit offset is zero in any file that starts with its headers.
    let start = u32_at(if wide { 32 } else { 28 })? as usize;
    let (size, count) = if wide { (u16_at(54)?, u16_at(56)?) } else { (u16_at(42)?, u16_at(44)?) };
    for index in 0..usize::from(count) {
        if u32_at(start + index * usize::from(size))? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}
