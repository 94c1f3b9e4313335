//! Which images the cluster has, who may have them, and the way of a blob from one board to another.
//!
//! The index is what the boards report (`status.images` of their Nodes) and this master's own store.
//! A board is given only images that a pod bound to it names, and only blobs of such images. Bytes
//! pass through: nothing but manifests is held. Several boards that ask for the same are each given
//! it. Deliberately absent: a choice of the nearest board, registries.

mod binaries;
mod known;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::limits::{
    BLOB_IDLE_SECONDS_MAX, BLOB_RELAYS_MAX, BLOB_RELAYS_PER_BOARD_MAX, IMAGE_DOCUMENT_BYTES_MAX,
    IMAGE_OFFERS_MAX, TUNNEL_CHUNKS_MAX,
};
use model::view::image_hash;
use model::wire::{BlobRequestV1, StreamRequestV1};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::Streams;
use crate::io::image::{
    Answer, Chunks, Digest, ImageName, ImageStore, Source, SourceError, blobs_of_manifest,
};
use crate::master::controllers::Views;
use crate::master::registry::{Registry, Target};
pub use binaries::BINARY_NAME;
use binaries::Binaries;
use known::Known;

/// The images of the cluster; clones share them.
#[derive(Clone)]
pub struct Images(Arc<Shared>);

struct Shared {
    /// Name of the master's own board, whose images are in `store`.
    own: String,
    store: ImageStore,
    views: Views,
    registry: Registry,
    streams: Streams,
    known: Mutex<Known>,
    relays: Arc<Semaphore>,
    of_boards: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Spreads the work over the boards that have an image.
    turn: AtomicUsize,
    /// Binaries that every board may fetch.
    binaries: Binaries,
}

/// A blob on its way.
pub struct Relay {
    chunks: Chunks,
    permits: [OwnedSemaphorePermit; 2],
}

impl Relay {
    /// Its bytes, and what is to be kept until they are sent.
    pub fn split(self) -> (Chunks, [OwnedSemaphorePermit; 2]) {
        (self.chunks, self.permits)
    }
}

/// An image under one name.
struct Offer {
    manifest: Digest,
    /// Boards that have it and can be asked.
    boards: Vec<String>,
    /// A board of the asker's architecture has it.
    fits: bool,
    /// The master's own board has it.
    here: bool,
}

impl Offer {
    fn of(manifest: Digest) -> Self {
        Self { manifest, boards: Vec::new(), fits: false, here: false }
    }

    /// The least is offered first. A name means what the master has under it, then what most boards
    /// have: no single board can put another image in its place.
    fn rank(&self) -> impl Ord + use<> {
        (!self.fits, !self.here, Reverse(self.boards.len()))
    }
}

/// What the cluster has under one name.
#[derive(Default)]
struct Offers {
    images: Vec<Offer>,
    /// A board that has it, but cannot be asked.
    away: Option<String>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("own", &self.0.own).finish_non_exhaustive()
    }
}

impl Images {
    /// The images of a cluster whose master is the board `own` with this store.
    pub fn new(
        own: &str,
        store: ImageStore,
        views: Views,
        registry: Registry,
        streams: Streams,
    ) -> Self {
        Self(Arc::new(Shared {
            own: own.to_owned(),
            store,
            views,
            registry,
            streams,
            known: Mutex::default(),
            relays: Arc::new(Semaphore::new(BLOB_RELAYS_MAX)),
            of_boards: Mutex::default(),
            turn: AtomicUsize::new(0),
            binaries: Binaries::default(),
        }))
    }

    /// Manifests of the images with this name, those that fit the asking board best first.
    ///
    /// # Errors
    /// `Refused` when no pod of the board names the image, `Away` when only boards have it that are
    /// not connected.
    pub fn offers(&self, board: &str, name: &str) -> Result<Vec<Digest>, SourceError> {
        let name = self.check(board, name)?;
        let Offers { images, away } = self.find(board, &name);
        match (images.is_empty(), away) {
            (true, Some(away)) => Err(SourceError::Away(format!(
                "image {name} is only on board {away:?}, which is not connected"
            ))),
            _ => Ok(images.into_iter().map(|offer| offer.manifest).collect()),
        }
    }

    /// A blob of an image of that name, from an offset to its end.
    ///
    /// # Errors
    /// `Refused` when no pod of the board names the image or the blob is none of its, `Away` when
    /// it cannot be given now.
    pub async fn blob(
        &self,
        board: &str,
        name: &str,
        digest: Digest,
        from: u64,
    ) -> Result<Relay, SourceError> {
        if name == BINARY_NAME {
            let permits = self.permits(board)?;
            return Ok(Relay { chunks: self.0.binaries.open(digest, from)?, permits });
        }
        let name = self.check(board, name)?;
        let permits = self.permits(board)?;
        let mut away = None;
        for offer in self.find(board, &name).images {
            let blobs = match self.blobs_of(&offer).await {
                Ok(blobs) => blobs,
                Err(why) => {
                    away = Some(why);
                    continue;
                }
            };
            if digest == offer.manifest || blobs.contains(&digest) {
                let chunks = self.open(&offer, digest, from).map_err(SourceError::Away)?;
                return Ok(Relay { chunks, permits });
            }
        }
        Err(match away {
            Some(why) => SourceError::Away(why),
            None => SourceError::Refused(format!("blob {digest} is not part of image {name}")),
        })
    }

    /// Lets every board fetch a binary, as a blob under [`BINARY_NAME`].
    pub fn lend(&self, digest: Digest, path: PathBuf) {
        self.0.binaries.lend(digest, path);
    }

    /// The same for the master's own board.
    pub fn for_own_board(&self) -> Arc<dyn Source> {
        Arc::new(Own(self.clone()))
    }

    /// Whether a pod bound to the board names the image.
    fn check(&self, board: &str, text: &str) -> Result<ImageName, SourceError> {
        let refused = |why: String| Err(SourceError::Refused(why));
        let Ok(name) = ImageName::parse(text) else {
            return refused(format!("{text:?} is not an image name"));
        };
        let Some(pods) = model::resource::find("", "v1", "pods") else {
            return refused("pods are not in the resource table".to_owned());
        };
        let bound: Vec<_> = {
            let world = self.0.views.world();
            let bound = world.pods_on(board).filter(|pod| !pod.finished());
            bound.map(|pod| (pod.meta.namespace.to_string(), pod.meta.name.to_string())).collect()
        };
        for (namespace, pod) in bound {
            // One that is gone by now names nothing.
            let Ok(json) = self.0.registry.get(&Target::new(pods, namespace, pod)) else {
                continue;
            };
            if names(&json, &name) {
                return Ok(name);
            }
        }
        refused(format!("no pod of board {board:?} uses image {name}"))
    }

    fn permits(&self, board: &str) -> Result<[OwnedSemaphorePermit; 2], SourceError> {
        let busy = || SourceError::Away("too many images are under way: later again".to_owned());
        let of_board = {
            let mut all = self.0.of_boards.lock().unwrap_or_else(PoisonError::into_inner);
            // A permit that is out holds its semaphore.
            all.retain(|_, one| Arc::strong_count(one) > 1);
            let new = || Arc::new(Semaphore::new(BLOB_RELAYS_PER_BOARD_MAX));
            all.entry(board.to_owned()).or_insert_with(new).clone()
        };
        let of_board = of_board.try_acquire_owned().map_err(|_| busy())?;
        let relay = self.0.relays.clone().try_acquire_owned().map_err(|_| busy())?;
        Ok([of_board, relay])
    }

    /// The images of this name, by what the boards report.
    fn find(&self, asking: &str, name: &ImageName) -> Offers {
        let mut found: BTreeMap<Digest, Offer> = BTreeMap::new();
        let mut offers = Offers::default();
        let Some(resource) = model::resource::find("", "v1", "nodes") else { return offers };
        let hash = image_hash(name.as_str());
        let nodes: Vec<String> = {
            let world = self.0.views.world();
            let having = world.nodes().filter(|node| node.image_bytes(hash).is_some());
            having.map(|node| node.meta.name.to_string()).collect()
        };
        let read = |node: &str| self.0.registry.get(&Target::new(resource, "", node)).ok();
        let asking = read(asking).map(|json| architecture(&json)).unwrap_or_default();
        for node in nodes {
            if node == self.0.own {
                continue;
            }
            let Some(json) = read(&node) else { continue };
            let Some(manifest) = reported(&json, name) else { continue };
            if !self.0.streams.reaches(&node) {
                offers.away = Some(node);
                continue;
            }
            let fits = architecture(&json) == asking;
            let offer = found.entry(manifest).or_insert_with(|| Offer::of(manifest));
            offer.fits |= fits;
            offer.boards.push(node);
        }
        if let Some(manifest) = self.0.store.manifest_of(name.as_str()) {
            let own = read(&self.0.own).map(|json| architecture(&json)).unwrap_or_default();
            let fits = own == asking;
            let offer = found.entry(manifest).or_insert_with(|| Offer::of(manifest));
            offer.fits |= fits;
            offer.here = true;
        }
        offers.images = found.into_values().collect();
        offers.images.sort_by_key(Offer::rank);
        offers.images.truncate(IMAGE_OFFERS_MAX);
        offers
    }

    /// Which blobs an image consists of.
    async fn blobs_of(&self, offer: &Offer) -> Result<Vec<Digest>, String> {
        if let Some(blobs) = self.0.store.blobs_of(offer.manifest) {
            return Ok(blobs);
        }
        let known = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blobs) = known().get(offer.manifest) {
            return Ok(blobs);
        }
        let mut chunks = self.open(offer, offer.manifest, 0)?;
        let mut bytes = Vec::new();
        let deadline = Duration::from_secs(BLOB_IDLE_SECONDS_MAX);
        let late = || format!("manifest {} did not come in time", offer.manifest);
        while let Some(chunk) = timeout(deadline, chunks.recv()).await.map_err(|_| late())? {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > IMAGE_DOCUMENT_BYTES_MAX {
                return Err(format!("manifest {} is too large", offer.manifest));
            }
        }
        if Digest::of(&bytes) != offer.manifest {
            return Err(format!("manifest {} came with another digest", offer.manifest));
        }
        let named = blobs_of_manifest(&bytes).map_err(|error| error.text())?;
        let blobs: Vec<Digest> = named.into_iter().map(|(digest, _)| digest).collect();
        known().put(offer.manifest, blobs.clone());
        Ok(blobs)
    }

    /// Begins to read a blob where it is: here, or on a board that has it.
    fn open(&self, offer: &Offer, digest: Digest, from: u64) -> Result<Chunks, String> {
        let (answer, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
        if self.0.store.blob_bytes(digest).is_some() {
            let store = self.0.store.clone();
            tokio::task::spawn_blocking(move || store.send_blob(digest, from, &answer));
            return Ok(chunks);
        }
        let request = StreamRequestV1::Blob(BlobRequestV1 { sha256: digest.bytes(), from });
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let count = offer.boards.len();
        let mut why = format!("no connected board has blob {digest}");
        for at in 0..count {
            let board = &offer.boards[(turn + at) % count];
            match self.0.streams.ask(board, &request, answer.clone()) {
                Ok(()) => return Ok(chunks),
                Err(text) => why = text,
            }
        }
        Err(why)
    }
}

/// Whether a container of the pod is made from the image.
fn names(pod: &Bytes, name: &ImageName) -> bool {
    let pod: Value = serde_json::from_slice(pod).unwrap_or_default();
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let containers = lists.iter().filter_map(|list| pod["spec"][list].as_array()).flatten();
    let mut images = containers.filter_map(|container| container["image"].as_str());
    images.any(|image| ImageName::parse(image).is_ok_and(|image| image == *name))
}

/// The manifest of the image of that name that a Node reports.
fn reported(node: &Bytes, name: &ImageName) -> Option<Digest> {
    let node: Value = serde_json::from_slice(node).ok()?;
    let digest = |text: &str| Digest::parse(text.split_once('@')?.1);
    node["status"]["images"].as_array()?.iter().find_map(|image| {
        let names = || image["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let manifest = names().find_map(digest)?;
        let is_it = match name.digest() {
            Some(pinned) => pinned == manifest,
            None => names().any(|other| other == name.as_str()),
        };
        is_it.then_some(manifest)
    })
}

fn architecture(node: &Bytes) -> String {
    let node: Value = serde_json::from_slice(node).unwrap_or_default();
    node["status"]["nodeInfo"]["architecture"].as_str().unwrap_or_default().to_owned()
}

/// The images of the cluster as the master's own board sees them.
#[derive(Debug)]
struct Own(Images);

impl Source for Own {
    fn offers<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<Digest>> {
        Box::pin(async move { self.0.offers(&self.0.0.own, name) })
    }

    fn blob<'a>(&'a self, name: &'a str, digest: Digest, from: u64) -> Answer<'a, Chunks> {
        Box::pin(async move {
            // The permits end here: a board fetches few images at a time by itself.
            self.0.blob(&self.0.0.own, name, digest, from).await.map(|relay| relay.chunks)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_reports_images_by_name_and_digest() {
        let one = Digest::of(b"one");
        let node = json!({"status": {"images": [
            {"names": ["docker.io/library/other:1"], "sizeBytes": 1},
            {"names": ["docker.io/library/app:1", format!("docker.io/library/app@{one}")]},
        ]}});
        let node = Bytes::from(node.to_string());
        let check = |name: &str, expected: Option<Digest>| {
            let name = ImageName::parse(name).expect("a name");
            assert_eq!(reported(&node, &name), expected, "{name}");
        };
        check("app:1", Some(one));
        check(&format!("app@{one}"), Some(one));
        check("app:2", None);
        check(&format!("app@{}", Digest::of(b"two")), None);
        check("other:1", None);
    }

    #[test]
    fn one_board_does_not_say_what_a_name_means() {
        let offer = |text: &[u8], boards: &[&str], fits, here| Offer {
            boards: boards.iter().map(ToString::to_string).collect(),
            fits,
            here,
            ..Offer::of(Digest::of(text))
        };
        let mut all = [
            offer(b"of another architecture", &["d", "e", "f"], false, true),
            offer(b"of one", &["a"], true, false),
            offer(b"of two", &["b", "c"], true, false),
            offer(b"of the master", &[], true, true),
        ];
        all.sort_by_key(Offer::rank);
        let order: Vec<_> = all.iter().map(|offer| offer.boards.len()).collect();
        assert_eq!(order, [0, 2, 1, 3]);
    }

    #[test]
    fn a_pod_names_the_images_of_all_its_containers() {
        let pod = json!({"spec": {
            "containers": [{"image": "app"}], "initContainers": [{"image": "docker.io/me/init:2"}],
        }});
        let pod = Bytes::from(pod.to_string());
        let check = |name: &str| names(&pod, &ImageName::parse(name).expect("a name"));
        assert!(check("docker.io/library/app:latest") && check("me/init:2"));
        assert!(!check("app:2") && !check("me/init") && !check("library/ap"));
    }
}
