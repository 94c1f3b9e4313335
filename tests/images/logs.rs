//! Logs of a pod on another board: followed, slow readers, readers that go, boards that go.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use kumquat::master::api::LogSource;
use model::wire::LogsRequestV1;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::bed::{Bed, Board, until};

const SOON: Duration = Duration::from_secs(20);

async fn next(chunks: &mut mpsc::Receiver<Result<Bytes, String>>) -> Option<Result<Bytes, String>> {
    timeout(SOON, chunks.recv()).await.expect("in time")
}

struct Log {
    path: PathBuf,
    request: LogsRequestV1,
}

impl Log {
    /// A pod that runs on the board, and its log.
    async fn of(bed: &Bed, board: &Board) -> Self {
        board.import("app:v1", 10_000);
        bed.pod(&board.name, "app:v1").await;
        bed.runs(&board.name, "app:v1").await;
        let pods = bed.loops.list("/pods");
        let meta = &pods.first().expect("one pod")["metadata"];
        let (name, uid) =
            (meta["name"].as_str().expect("name"), meta["uid"].as_str().expect("uid"));
        let folder = board.folder.join("data/logs").join(format!("default_{name}_{uid}/main"));
        fs::create_dir_all(&folder).expect("made");
        let request = LogsRequestV1 {
            pod: model::ids::Uid::parse(uid).expect("a uid"),
            container: "main".to_owned(),
            follow: true,
            ..LogsRequestV1::default()
        };
        Self { path: folder.join("0.log"), request }
    }

    fn write(&self, lines: usize, text: &str) {
        use std::io::Write;
        let line = format!("2026-11-22T07:16:01.0Z stdout F {text}\n");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path);
        let file = file.as_mut().expect("opened");
        file.write_all(line.repeat(lines).as_bytes()).expect("written");
    }

    fn open(&self, bed: &Bed, board: &str) -> mpsc::Receiver<Result<Bytes, String>> {
        let (answer, chunks) = mpsc::channel(1);
        LogSource::open(&bed.streams, board, self.request.clone(), answer).expect("connected");
        chunks
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_log_comes_from_any_board_and_ends_with_a_sentence() {
    let bed = Bed::new("logs").await;
    let one = bed.board("pi-1").await;
    let log = Log::of(&bed, &one).await;
    let mut quiet = log.open(&bed, "pi-1");
    log.write(1, "hello");
    assert_eq!(next(&mut quiet).await, Some(Ok(Bytes::from_static(b"hello\n"))));
    log.write(1, "again");
    assert_eq!(next(&mut quiet).await, Some(Ok(Bytes::from_static(b"again\n"))));
    let mut wrong = log.request.clone();
    wrong.container = "other".to_owned();
    let (answer, mut chunks) = mpsc::channel(1);
    LogSource::open(&bed.streams, "pi-1", wrong, answer).expect("connected");
    let error = next(&mut chunks).await.expect("an answer").expect_err("no such container");
    assert!(error.starts_with("container other is not valid for pod app"), "{error}");
    one.disconnect().await;
    let error = next(&mut quiet).await.expect("a last word").expect_err("the board is gone");
    assert!(error.contains("connection"), "{error}");
    assert_eq!(next(&mut quiet).await, None);
    let (answer, _) = mpsc::channel(1);
    until("the master knows", || !bed.streams.reaches("pi-1")).await;
    let error = LogSource::open(&bed.streams, "pi-1", log.request, answer).expect_err("away");
    assert_eq!(error, "board \"pi-1\" is not connected to this master");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_makes_the_board_wait_and_one_that_goes_ends_the_stream() {
    let bed = Bed::new("slow").await;
    let one = bed.board("pi-1").await;
    let log = Log::of(&bed, &one).await;
    log.write(200_000, &"x".repeat(100));
    let before = one.proxy.up();
    let mut chunks = log.open(&bed, "pi-1");
    assert!(next(&mut chunks).await.expect("a chunk").is_ok());
    // 20 MB lie there; only what buffers hold may have come.
    let mut last = 0;
    while last != one.proxy.up() {
        last = one.proxy.up();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let sent = last - before;
    println!("{sent} bytes came for a reader that does not read");
    assert!(sent < 2 * 1024 * 1024, "{sent}");
    drop(chunks);
    // Places on the board are free again: as many streams as it serves can be read to the end.
    for _ in 0..model::limits::LOG_STREAMS_MAX + 2 {
        let mut request = log.request.clone();
        (request.follow, request.limit_bytes) = (false, Some(10));
        let (answer, mut chunks) = mpsc::channel(1);
        LogSource::open(&bed.streams, "pi-1", request, answer).expect("connected");
        let first = next(&mut chunks).await.expect("a chunk");
        assert_eq!(first.map(|bytes| bytes.len()), Ok(10));
        assert_eq!(next(&mut chunks).await, None);
    }
}
