//! A link that counts its bytes and can be cut in the middle of them.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of the master's peer port; ends with the runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    down_bytes: AtomicU64,
    up_bytes: AtomicU64,
    cuts: Mutex<VecDeque<u64>>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let proxy = Self { address, shared: shared.clone() };
        tokio::spawn(async move {
            while let Ok((board, _)) = listener.accept().await {
                tokio::spawn(pass(board, target, shared.clone()));
            }
        });
        proxy
    }

    /// Bytes from the master.
    pub(crate) fn down(&self) -> u64 {
        self.shared.down_bytes.load(Ordering::SeqCst)
    }

    /// Bytes to the master.
    pub(crate) fn up(&self) -> u64 {
        self.shared.up_bytes.load(Ordering::SeqCst)
    }

    /// Ends the connection after each of these many further bytes from the master, in turn.
    pub(crate) fn cut_each_after(&self, bytes: &[u64]) {
        self.shared.cuts.lock().expect("no panic").extend(bytes);
    }

    pub(crate) fn cuts_left(&self) -> usize {
        self.shared.cuts.lock().expect("no panic").len()
    }
}

async fn pass(mut board: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    let Ok(mut master) = TcpStream::connect(target).await else { return };
    // A link does not hold small packets back.
    board.set_nodelay(true).and(master.set_nodelay(true)).expect("options");
    let (mut board_reads, mut board_writes) = board.split();
    let (mut master_reads, mut master_writes) = master.split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count) = board_reads.read(&mut buffer).await {
            shared.up_bytes.fetch_add(count as u64, Ordering::SeqCst);
            if count == 0 || master_writes.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        let mut since_cut = 0;
        while let Ok(count) = master_reads.read(&mut buffer).await {
            let cut = shared.cuts.lock().expect("no panic").front().copied();
            since_cut = if cut.is_some() { since_cut + count as u64 } else { 0 };
            if let Some(after) = cut.filter(|after| since_cut > *after) {
                let rest = count - usize::try_from(since_cut - after).expect("small").min(count);
                shared.down_bytes.fetch_add(rest as u64, Ordering::SeqCst);
                drop(board_writes.write_all(&buffer[..rest]).await);
                shared.cuts.lock().expect("no panic").pop_front();
                return;
            }
            shared.down_bytes.fetch_add(count as u64, Ordering::SeqCst);
            if count == 0 || board_writes.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    // Whichever side ends first ends both, as a cut link does.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
