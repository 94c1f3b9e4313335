//! Making an image of one static program: an OCI archive with a single layer.
//!
//! For the demo and for tests, where no image may come from outside. The program is read twice,
//! never held in memory.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What to pack.
#[derive(Clone, Copy, Debug)]
pub struct SingleFile<'a> {
    /// Image name with its tag.
    pub name: &'a str,
    /// The program's file on this machine.
    pub program: &'a Path,
    /// Its path in the image, without a leading slash.
    pub path: &'a str,
    /// More paths that lead to the program, as symbolic links.
    pub links: &'a [&'a str],
    /// The entrypoint of the image.
    pub entrypoint: &'a [&'a str],
}

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const TAR_BLOCK_BYTES: u64 = 512;
/// Where an ELF header names its machine (elf(5), `e_machine`).
const ELF_MACHINE_AT: u64 = 18;

/// Writes the archive (OCI image layout in a tar, as `skopeo copy ... oci-archive:` makes it).
///
/// # Errors
/// The program cannot be read, or the writer fails.
pub fn write_archive(image: &SingleFile<'_>, writer: &mut dyn Write) -> io::Result<()> {
    let (layer_digest, layer_bytes) = digest_of(layer(image)?)?;
    let config = json!({
        "architecture": architecture(image.program)?,
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    })
    .to_string();
    let (config_digest, config_bytes) = digest_of(config.as_bytes())?;
    let descriptor = |kind: &str, digest: &str, size: u64| -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"), "size": size,
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config_digest, config_bytes),
        "layers": [descriptor("layer.v1.tar", &layer_digest, layer_bytes)],
    })
    .to_string();
    let (manifest_digest, manifest_bytes) = digest_of(manifest.as_bytes())?;
    let mut entry = descriptor("manifest.v1+json", &manifest_digest, manifest_bytes);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": image.name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();

    let mut archive = tar::Builder::new(writer);
    append(&mut archive, "oci-layout", LAYOUT.len() as u64, LAYOUT.as_bytes())?;
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    append(&mut archive, &blob(&layer_digest), layer_bytes, layer(image)?)?;
    append(&mut archive, &blob(&config_digest), config_bytes, config.as_bytes())?;
    append(&mut archive, &blob(&manifest_digest), manifest_bytes, manifest.as_bytes())?;
    append(&mut archive, "index.json", index.len() as u64, index.as_bytes())?;
    archive.finish()
}

/// GOARCH of the program, as OCI names architectures: by the machine in its ELF header, else this one's.
fn architecture(program: &Path) -> io::Result<&'static str> {
    let mut head = Vec::new();
    File::open(program)?.take(ELF_MACHINE_AT + 2).read_to_end(&mut head)?;
    let machine = head.strip_prefix(b"\x7fELF").and_then(|head| head.last_chunk());
    Ok(match machine.copied().map(u16::from_le_bytes) {
        Some(62) => "amd64",
        Some(183) => "arm64",
        Some(40) => "arm",
        _ => match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
    })
}

fn header(path: &str, size: u64, mode: u32) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_cksum();
    Ok(header)
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    archive.append(&header(path, size, 0o644)?, content)
}

/// The layer as a stream: the program, its links, and the two closing blocks.
fn layer(image: &SingleFile<'_>) -> io::Result<impl Read + use<>> {
    let program = File::open(image.program)?;
    let size = program.metadata()?.len();
    let head = header(image.path, size, 0o755)?.as_bytes().to_vec();
    let padding = size.next_multiple_of(TAR_BLOCK_BYTES) - size;
    let mut links = Vec::new();
    for path in image.links {
        let mut link = header(path, 0, 0o777)?;
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_link_name(Path::new("/").join(image.path))?;
        link.set_cksum();
        links.extend_from_slice(link.as_bytes());
    }
    let zeros = |count| io::repeat(0).take(count);
    let program = program.take(size).chain(zeros(padding));
    let tail = Cursor::new(links).chain(zeros(2 * TAR_BLOCK_BYTES));
    Ok(Cursor::new(head).chain(program).chain(tail))
}

fn digest_of(mut content: impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let size = io::copy(&mut content, &mut hash)?;
    let text = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((text, size))
}
