//! The broker alone in a process, for measuring: prints its port, ends when its input ends.

use std::net::Ipv4Addr;
use std::sync::Arc;

use broker::{AllowAll, Broker, Limits, Peer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

fn main() -> std::io::Result<()> {
    raise_open_files();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        let accepting = tokio::spawn(accept(listener));
        // Whoever started this process holds the other end.
        let _ = tokio::io::stdin().read(&mut [0]).await;
        accepting.abort();
        Ok(())
    })
}

async fn accept(listener: TcpListener) {
    let broker = Broker::new(Limits::default(), Arc::new(AllowAll));
    while let Ok((stream, address)) = listener.accept().await {
        // Measured with it where it can be had.
        let _ = stream.set_nodelay(true);
        let broker = broker.clone();
        tokio::spawn(async move {
            let ended = broker.serve(stream, Peer { name: None, address }).await;
            if !ended.is_ordinary() {
                eprintln!("{address}: {ended}");
            }
        });
    }
}

/// As many descriptors as the process may have.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, the load says how many connections it reached.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
