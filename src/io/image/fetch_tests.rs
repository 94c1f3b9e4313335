//! Fetching from a real store through a source that cuts, damages and refuses.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::super::build::{SingleFile, write_archive};
use super::*;

const LAYER_BYTES: usize = 3 * 1024 * 1024;
const NAME: &str = "registry.local/me/app:1";

/// Two boards' stores, removed at the end.
struct Bed(PathBuf);

impl Bed {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kumquat-fetch-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).expect("made");
        Self(dir)
    }

    fn open(&self, board: &str) -> ImageStore {
        ImageStore::open(self.0.join(board)).expect("opens")
    }

    /// A board that has the image and gives it.
    fn lender(&self) -> Arc<Lender> {
        let mut program = vec![0; LAYER_BYTES];
        getrandom::fill(&mut program).expect("random bytes");
        let (file, archive) = (self.0.join("program"), self.0.join("app.tar"));
        fs::write(&file, program).expect("written");
        let image = SingleFile {
            name: NAME,
            program: &file,
            path: "app",
            links: &[],
            entrypoint: &["/app"],
        };
        write_archive(&image, &mut File::create(&archive).expect("made")).expect("packed");
        let store = self.open("lender");
        store.import(File::open(archive).expect("there"), None).expect("imported");
        Arc::new(Lender { store, ..Lender::empty(self.open("nobody")) })
    }

    fn partials(&self, board: &str) -> Vec<PathBuf> {
        let listing = fs::read_dir(self.0.join(board).join("partial")).expect("there");
        listing.map(|entry| entry.expect("readable").path()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[derive(Debug)]
struct Lender {
    store: ImageStore,
    /// Bytes after which a blob is cut off, one blob each.
    cuts: Mutex<VecDeque<u64>>,
    sent_bytes: AtomicU64,
    /// Turns the first byte of every layer.
    lies: AtomicBool,
}

impl Lender {
    fn empty(store: ImageStore) -> Self {
        let (cuts, sent_bytes) = (Mutex::default(), AtomicU64::new(0));
        Self { store, cuts, sent_bytes, lies: AtomicBool::new(false) }
    }

    fn sent(&self) -> u64 {
        self.sent_bytes.load(Ordering::SeqCst)
    }

    fn total(&self) -> u64 {
        self.store.list()[0].bytes
    }

    fn cut_at(&self, bytes: &[u64]) {
        self.cuts.lock().expect("no panic").extend(bytes);
    }
}

impl Source for Arc<Lender> {
    fn offers<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<Digest>> {
        Box::pin(async move { Ok(self.store.manifest_of(name).into_iter().collect()) })
    }

    fn blob<'a>(&'a self, _name: &'a str, digest: Digest, from: u64) -> Answer<'a, Chunks> {
        let (inner, mut read) = mpsc::channel(1);
        let (answer, chunks) = mpsc::channel(1);
        let (lender, store) = (self.clone(), self.store.clone());
        let is_layer = store.blob_bytes(digest).is_some_and(|bytes| bytes > 64 * 1024);
        let cut = is_layer.then(|| self.cuts.lock().expect("no panic").pop_front()).flatten();
        tokio::task::spawn_blocking(move || store.send_blob(digest, from, &inner));
        tokio::spawn(async move {
            let mut left = cut.unwrap_or(u64::MAX);
            while let Some(Ok(chunk)) = read.recv().await {
                let mut chunk = chunk.to_vec();
                if is_layer && lender.lies.load(Ordering::SeqCst) {
                    chunk[0] ^= 1;
                }
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= chunk.len() as u64;
                lender.sent_bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                drop(answer.send(Ok(chunk.into())).await);
                if left == 0 {
                    drop(answer.send(Err("cut".to_owned())).await);
                    return;
                }
            }
        });
        Box::pin(async move { Ok(chunks) })
    }
}

async fn fetch(store: &ImageStore, lender: &Arc<Lender>) -> Result<Fetched, FetchError> {
    let (_running, stop) = watch::channel(false);
    fetch_until(store, lender, stop).await
}

async fn fetch_until(
    store: &ImageStore,
    lender: &Arc<Lender>,
    stop: watch::Receiver<bool>,
) -> Result<Fetched, FetchError> {
    let (store, source) = (store.clone(), Arc::new(lender.clone()));
    let name = ImageName::parse(NAME).expect("a name");
    tokio::task::spawn_blocking(move || store.fetch(&name, source, stop)).await.expect("no panic")
}

fn program(image: &super::super::Image, store: &Path) -> Vec<u8> {
    assert!(image.layers[0].starts_with(store));
    fs::read(image.layers[0].join("app")).expect("unpacked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_comes_whole_and_cut_at_any_byte_nothing_comes_twice() {
    let bed = Bed::new("cuts");
    let lender = bed.lender();
    // One byte, the end of a chunk, within chunks, one byte before the end.
    lender.cut_at(&[1, 65_535, 700_001, 1_000_000, lender.total() / 3]);
    let store = bed.open("asker");
    let waiter = store.changes();
    let fetched = fetch(&store, &lender).await.expect("fetched");
    assert_eq!(fetched.bytes, lender.total());
    assert_eq!(fetched.received_bytes, lender.total(), "nothing came twice");
    assert_eq!(lender.sent(), lender.total());
    assert!(waiter.has_changed().expect("open"), "those who wait for an image are woken");
    let (image, theirs) = (store.resolve(NAME).expect("here"), lender.store.resolve(NAME));
    assert_eq!(image.digest, theirs.expect("there").digest);
    let same = fs::read(bed.0.join("program")).expect("there");
    assert!(program(&image, &bed.0.join("asker")) == same, "the program is what was packed");
    assert!(bed.partials("asker").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_rest_comes_and_damage_of_a_power_cut_is_found() {
    let bed = Bed::new("restart");
    let lender = bed.lender();
    lender.cut_at(&[2_000_000]);
    let (stopper, stop) = watch::channel(false);
    let store = bed.open("asker");
    let watched = lender.clone();
    tokio::spawn(async move {
        while watched.sent() < 2_000_000 {
            tokio::task::yield_now().await;
        }
        stopper.send_replace(true);
    });
    let stopped = fetch_until(&store, &lender, stop).await;
    assert!(matches!(stopped, Err(FetchError::Stopped)), "{stopped:?}");
    drop(store);
    let store = bed.open("asker");
    let kept: u64 = bed.partials("asker").iter().map(|p| p.metadata().expect("there").len()).sum();
    assert!(kept > 1_000_000, "only {kept} bytes are left");
    let fetched = fetch(&store, &lender).await.expect("fetched");
    assert_eq!(fetched.received_bytes + kept, lender.total());

    // What lies there from before may be zeros.
    let other = bed.open("other");
    let layer = lender.store.blobs_of(fetched.digest).expect("there")[0];
    fs::write(other.partial_path(layer), vec![0; 1_000_000]).expect("written");
    let fetched = fetch(&other, &lender).await.expect("fetched in spite of it");
    assert!(fetched.received_bytes >= lender.total(), "all of it came");
    other.resolve(NAME).expect("whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_digest_is_never_used() {
    let bed = Bed::new("lies");
    let lender = bed.lender();
    lender.lies.store(true, Ordering::SeqCst);
    let store = bed.open("asker");
    let error = fetch(&store, &lender).await.expect_err("a lie");
    assert!(error.text().contains("came with another digest"), "{}", error.text());
    assert!(store.list().is_empty() && store.resolve(NAME).is_err());
    let layer = lender.store.blobs_of(lender.store.list()[0].digest).expect("there")[0];
    assert!(!store.partial_path(layer).exists(), "the next try begins anew");
    lender.lies.store(false, Ordering::SeqCst);
    fetch(&store, &lender).await.expect("the truth");
    fs::write(store.partial_path(layer), "left over").expect("written");
    store.sweep_partials();
    assert!(bed.partials("asker").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_why() {
    let bed = Bed::new("refusals");
    let lender = bed.lender();
    let nobody = Arc::new(Lender::empty(bed.open("third")));
    let store = bed.open("asker");
    let error = fetch(&store, &nobody).await.expect_err("nobody has it");
    let text = format!(
        "no board of this cluster has image {NAME}: run `kumquat image import` on any of them"
    );
    assert_eq!(error.text(), text);
    let riscv = Platform { architecture: "riscv64".to_owned(), variant: 0 };
    let built = Platform::host();
    let other = ImageStore::open_for(bed.0.join("riscv"), riscv).expect("opens");
    let error = fetch(&other, &lender).await.expect_err("another processor");
    assert_eq!(error.text(), format!("image {NAME} is built for {built}, this board is riscv64"));
    assert!(lender.sent() < 10_000, "its layers were not fetched");
}
