//! Import of an archive: find the images in it, verify, unpack, make durable, record.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use model::limits::{IMAGE_ARCHIVE_IMAGES_MAX, IMAGE_LAYERS_MAX};

use super::archive::{Archive, Staged};
use super::digest::Digest;
use super::document::{
    ANNOTATION_NAME, ANNOTATION_REF, ConfigDocument, Descriptor, DockerImage, Index, MEDIA_CONFIG,
    MEDIA_DOCKER_LIST, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST, Manifest,
};
use super::error::ImageError;
use super::layer;
use super::name::ImageName;
use super::platform::Platform;
use super::record::{ImageRecord, LayerRecord};
use super::store::{ImageStore, remove_tree};
use super::tree::Dir;

/// An image of the archive, its documents checked, its layers not yet.
pub(super) struct Candidate {
    pub(super) names: Vec<ImageName>,
    pub(super) manifest: Staged,
    pub(super) config: Staged,
    pub(super) layers: Vec<Staged>,
}

/// A rename that makes verified content visible.
struct Move {
    from: PathBuf,
    to: PathBuf,
}

pub(super) fn import(
    store: &ImageStore,
    reader: impl Read,
    name: Option<&ImageName>,
    stage: &Path,
) -> Result<Vec<ImageName>, ImageError> {
    let fault = || ImageError::io("preparing the staging directory");
    let files = stage.join("files");
    fs::create_dir_all(&files).map_err(fault())?;
    fs::create_dir_all(stage.join("layers")).map_err(fault())?;
    let known = |digest| {
        let bytes = store.recorded_blob(digest)?;
        Some(Staged { path: store.blob_path(digest), digest, bytes })
    };
    let archive = Archive::stage(reader, &files, &known)?;
    let candidates = candidates(store.platform(), &archive, name, stage)?;
    let mut moves = Vec::new();
    let mut unpacked = BTreeMap::new();
    let mut records = Vec::new();
    for candidate in &candidates {
        records.push(install(store, candidate, stage, &mut unpacked, &mut moves)?);
    }
    make_durable(store, stage, moves)?;
    store.change(|record| records.into_iter().for_each(|image| record.put(image)))?;
    Ok(candidates.into_iter().flat_map(|candidate| candidate.names).collect())
}

/// Records an image whose blobs were fetched and verified one by one.
pub(super) fn record_fetched(store: &ImageStore, image: &Candidate) -> Result<(), ImageError> {
    let _writing = store.writing();
    let stage = store.dir().join("tmp/fetch");
    let recorded = try_record_fetched(store, image, &stage);
    let cleaned = remove_tree(&stage);
    if recorded.is_err() {
        // Blobs that were moved but not recorded; they are also swept at the next open.
        let _ = store.sweep();
    }
    recorded?;
    cleaned.map_err(ImageError::io("removing the staging directory"))?;
    store.added()
}

fn try_record_fetched(
    store: &ImageStore,
    image: &Candidate,
    stage: &Path,
) -> Result<(), ImageError> {
    fs::create_dir_all(stage.join("layers"))
        .map_err(ImageError::io("preparing the staging directory"))?;
    let mut moves = Vec::new();
    let record = install(store, image, stage, &mut BTreeMap::new(), &mut moves)?;
    make_durable(store, stage, moves)?;
    store.change(|all| all.put(record))
}

fn candidates(
    host: &Platform,
    archive: &Archive,
    name: Option<&ImageName>,
    stage: &Path,
) -> Result<Vec<Candidate>, ImageError> {
    let mut candidates = if let Some(index) = archive.file("index.json") {
        oci_candidates(host, archive, &index.json("index.json")?)?
    } else if let Some(list) = archive.file("manifest.json") {
        let images: Vec<DockerImage> = list.json("manifest.json")?;
        check_count(images.len())?;
        let read = |(at, image)| docker_candidate(archive, image, stage, at);
        images.iter().enumerate().map(read).collect::<Result<_, _>>()?
    } else {
        let text = "it has neither index.json (OCI) nor manifest.json (Docker)";
        return Err(ImageError::NotAnArchive(text.to_owned()));
    };
    if let ([one], Some(name)) = (candidates.as_mut_slice(), name) {
        one.names = vec![name.clone()];
    }
    if candidates.is_empty() {
        return Err(ImageError::NotAnArchive("it holds no image".to_owned()));
    }
    if candidates.iter().any(|candidate| candidate.names.is_empty()) {
        return Err(ImageError::Nameless);
    }
    Ok(candidates)
}

fn check_count(images: usize) -> Result<(), ImageError> {
    if images > IMAGE_ARCHIVE_IMAGES_MAX {
        let text = format!("it holds {images} images, at most {IMAGE_ARCHIVE_IMAGES_MAX}");
        return Err(ImageError::TooLarge(text));
    }
    Ok(())
}

fn oci_candidates(
    host: &Platform,
    archive: &Archive,
    index: &Index,
) -> Result<Vec<Candidate>, ImageError> {
    check_count(index.manifests.len())?;
    // Manifests of one name are the same image for several platforms.
    let mut by_name: BTreeMap<Option<ImageName>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in &index.manifests {
        let name = annotated_name(descriptor)?;
        let group = by_name.entry(name).or_default();
        if descriptor.media_type == MEDIA_INDEX || descriptor.media_type == MEDIA_DOCKER_LIST {
            let nested: Index = archive.blob(descriptor.digest)?.json("a nested index")?;
            check_count(nested.manifests.len())?;
            group.extend(nested.manifests);
        } else {
            group.push(descriptor.clone());
        }
    }
    by_name.into_iter().map(|(name, group)| choose(host, archive, name, &group)).collect()
}

fn annotated_name(descriptor: &Descriptor) -> Result<Option<ImageName>, ImageError> {
    let Some(annotations) = &descriptor.annotations else { return Ok(None) };
    if let Some(name) = annotations.get(ANNOTATION_NAME) {
        return ImageName::parse(name).map(Some);
    }
    match annotations.get(ANNOTATION_REF) {
        // A bare tag names nothing: "latest" alone would become docker.io/library/latest.
        Some(text) if text.contains([':', '/']) => ImageName::parse(text).map(Some),
        _ => Ok(None),
    }
}

/// Takes the manifest that fits this board best.
fn choose(
    host: &Platform,
    archive: &Archive,
    name: Option<ImageName>,
    group: &[Descriptor],
) -> Result<Candidate, ImageError> {
    let shown = name.as_ref().map_or_else(|| "in the archive".to_owned(), ToString::to_string);
    let mut best: Option<(u32, Candidate)> = None;
    let mut built = Vec::new();
    for descriptor in group {
        if let Some(words) = &descriptor.platform {
            let platform = Platform::of_image(&words.architecture, words.variant.as_deref());
            if words.os != "linux" || host.fit(&platform).is_none() {
                // Attestations call themselves unknown/unknown and are no images.
                if words.architecture != "unknown" {
                    built.push(platform.to_string());
                }
                continue;
            }
        }
        let (candidate, platform) = oci_candidate(archive, name.as_ref(), descriptor)?;
        match host.fit(&platform) {
            Some(fit) if best.as_ref().is_none_or(|(other, _)| fit > *other) => {
                best = Some((fit, candidate));
            }
            Some(_) => {}
            None => built.push(platform.to_string()),
        }
    }
    best.map(|(_, candidate)| candidate).ok_or_else(|| refusal(shown, built, host))
}

pub(super) fn refusal(name: String, mut built: Vec<String>, host: &Platform) -> ImageError {
    built.sort();
    built.dedup();
    ImageError::Architecture { name, built: built.join(", "), board: host.to_string() }
}

fn oci_candidate(
    archive: &Archive,
    name: Option<&ImageName>,
    descriptor: &Descriptor,
) -> Result<(Candidate, Platform), ImageError> {
    let staged = archive.blob(descriptor.digest)?;
    let manifest: Manifest = staged.json("an image manifest")?;
    let config = archive.blob(manifest.config.digest)?.clone();
    let document: ConfigDocument = config.json("an image configuration")?;
    let layers: Result<Vec<Staged>, _> =
        manifest.layers.iter().map(|layer| archive.blob(layer.digest).cloned()).collect();
    let candidate = Candidate {
        names: name.cloned().into_iter().collect(),
        manifest: staged.clone(),
        config,
        layers: layers?,
    };
    let platform = Platform::of_image(&document.architecture, document.variant.as_deref());
    Ok((candidate, platform))
}

/// A docker-archive has no manifest with digests: one is written for it.
fn docker_candidate(
    archive: &Archive,
    image: &DockerImage,
    stage: &Path,
    at: usize,
) -> Result<Candidate, ImageError> {
    let find = |path: &String| {
        let missing = || ImageError::Damaged(format!("{path} is missing"));
        archive.file(path).cloned().ok_or_else(missing)
    };
    let config = find(&image.config)?;
    let layers: Vec<Staged> = image.layers.iter().map(find).collect::<Result<_, _>>()?;
    let descriptor = |media: &str, staged: &Staged| Descriptor {
        media_type: media.to_owned(),
        digest: staged.digest,
        size: staged.bytes,
        annotations: None,
        platform: None,
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: MEDIA_MANIFEST.to_owned(),
        config: descriptor(MEDIA_CONFIG, &config),
        layers: layers.iter().map(|layer| descriptor(MEDIA_LAYER, layer)).collect(),
    };
    let bytes = serde_json::to_vec(&manifest).expect("plain data with string keys always encodes");
    let path = stage.join(format!("files/manifest-{at}"));
    fs::write(&path, &bytes).map_err(ImageError::io("writing a manifest"))?;
    let tags = image.repo_tags.iter().flatten();
    Ok(Candidate {
        names: tags.map(|tag| ImageName::parse(tag)).collect::<Result<_, _>>()?,
        manifest: Staged { path, digest: Digest::of(&bytes), bytes: bytes.len() as u64 },
        config,
        layers,
    })
}

/// Verifies and unpacks one image under the staging directory.
fn install(
    store: &ImageStore,
    candidate: &Candidate,
    stage: &Path,
    unpacked: &mut BTreeMap<Digest, PathBuf>,
    moves: &mut Vec<Move>,
) -> Result<ImageRecord, ImageError> {
    let shown = candidate.names.first().map(ToString::to_string).unwrap_or_default();
    let config: ConfigDocument = candidate.config.json("an image configuration")?;
    let platform = Platform::of_image(&config.architecture, config.variant.as_deref());
    if store.platform().fit(&platform).is_none() || !matches!(config.os.as_str(), "" | "linux") {
        let built = if config.os == "linux" { platform.to_string() } else { config.os.clone() };
        return Err(refusal(shown, vec![built], store.platform()));
    }
    let (layers, diff_ids) = (&candidate.layers, &config.rootfs.diff_ids);
    if layers.is_empty() || layers.len() != diff_ids.len() {
        let (count, expected) = (layers.len(), diff_ids.len());
        let text = format!("{shown} has {count} layers, its configuration {expected}");
        return Err(ImageError::Damaged(text));
    }
    if layers.len() > IMAGE_LAYERS_MAX {
        let text = format!("{shown} has {} layers, at most {IMAGE_LAYERS_MAX}", layers.len());
        return Err(ImageError::TooLarge(text));
    }
    let mut records = Vec::new();
    let mut lowers: Vec<PathBuf> = Vec::new();
    let mut chain = None;
    for (staged, diff_id) in layers.iter().zip(diff_ids) {
        let id = chain_id(chain, *diff_id);
        chain = Some(id);
        let dir = if store.has_layer(id) {
            store.layer_path(id)
        } else if let Some(dir) = unpacked.get(&id) {
            dir.clone()
        } else {
            let dir = stage.join("layers").join(unpacked.len().to_string());
            unpack_verified(staged, *diff_id, &dir, &lowers)?;
            unpacked.insert(id, dir.clone());
            moves.push(Move { from: dir.clone(), to: store.layer_path(id) });
            dir
        };
        lowers.insert(0, dir);
        records.push(LayerRecord { blob: staged.digest, chain: id, bytes: staged.bytes });
    }
    for staged in layers.iter().chain([&candidate.config, &candidate.manifest]) {
        moves.push(Move { from: staged.path.clone(), to: store.blob_path(staged.digest) });
    }
    Ok(ImageRecord {
        names: candidate.names.iter().map(ToString::to_string).collect(),
        digest: candidate.manifest.digest,
        manifest_bytes: candidate.manifest.bytes + candidate.config.bytes,
        config: candidate.config.digest,
        architecture: platform.to_string(),
        layers: records,
        imported_seconds: now_seconds(),
    })
}

fn unpack_verified(
    staged: &Staged,
    diff_id: Digest,
    dir: &Path,
    lowers: &[PathBuf],
) -> Result<(), ImageError> {
    let attempt = || ImageError::io(format!("unpacking layer {diff_id}"));
    fs::create_dir(dir).map_err(attempt())?;
    let blob = File::open(&staged.path).map_err(attempt())?;
    let (digest, _) = layer::unpack(blob, dir, lowers).map_err(attempt())?;
    if digest != diff_id {
        return Err(ImageError::Damaged(format!("layer {diff_id} unpacks to {digest}")));
    }
    Ok(())
}

/// OCI image specification, `config.md`, "Layer ChainID".
fn chain_id(below: Option<Digest>, diff_id: Digest) -> Digest {
    match below {
        None => diff_id,
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}

/// Content first, then its name, then (by the caller) the record.
fn make_durable(store: &ImageStore, stage: &Path, moves: Vec<Move>) -> Result<(), ImageError> {
    let attempt = || ImageError::io("making the image durable");
    Dir::open(stage).and_then(|dir| dir.sync_file_system()).map_err(attempt())?;
    for Move { from, to } in moves {
        // The same blob may serve several images; the store may have it already.
        if from == to || !from.exists() && to.exists() {
            continue;
        }
        if to.is_dir() {
            fs::remove_dir_all(&to).map_err(attempt())?;
        }
        fs::rename(&from, &to).map_err(attempt())?;
    }
    store.sync_places().map_err(attempt())
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
