//! exec, attach and port-forward with kube-rs, whose port-forward is plain WebSocket.

#[path = "../../harness/board.rs"]
mod board;
#[path = "../../harness/busybox.rs"]
mod busybox;

use std::time::Duration;

use board::{Board, possible, text};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, TerminalSize};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use kumquat::io::net;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const PODS: &str = "/api/v1/namespaces/default/pods";
const LARGE: usize = 4 * 1024 * 1024;
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn kube_rs_runs_processes_and_forwards_ports() {
    if !possible("kube-streams") || !busybox::present("kube-streams") {
        return;
    }
    let mut board = Board::new("kube-streams");
    board.up(&[]);
    let links = ["bin/sh", "bin/cat", "bin/httpd", "bin/stty", "bin/sleep"];
    let archive = busybox::archive_with(&board.data_dir().join(".."), busybox::IMAGE, &links);
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    let script = "echo hello > /hello; exec httpd -f -p 127.0.0.1:8080 -h /";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [
            {"name": "main", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script]}]},
    });
    board.create(PODS, &pod);
    let path = format!("{PODS}/web");
    board.wait_for("running", &path, WITHIN, |pod| pod["status"]["phase"] == "Running");
    let kubeconfig = std::fs::read_to_string(board.kubeconfig()).expect("kubeconfig");
    let outcome = net::inside(board.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let kubeconfig: Kubeconfig = Kubeconfig::from_yaml(&kubeconfig)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config)?);
            timeout(WITHIN, input_and_code(&pods)).await??;
            timeout(WITHIN, terminal(&pods)).await??;
            timeout(WITHIN, forward(&pods)).await?
        }))
    });
    outcome.expect("a runtime").unwrap_or_else(|error: anyhow::Error| panic!("{error:#}"));
}

async fn input_and_code(pods: &Api<Pod>) -> anyhow::Result<()> {
    let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut process = pods.exec("web", ["sh", "-c", "cat; exit 5"], &params).await?;
    let mut stdin = process.stdin().expect("asked for");
    let mut stdout = process.stdout().expect("asked for");
    let sent: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    let input = sent.clone();
    let writing = tokio::spawn(async move {
        stdin.write_all(&input).await?;
        // The fifth version of the protocol tells the end of input.
        stdin.shutdown().await
    });
    let mut heard = Vec::new();
    stdout.read_to_end(&mut heard).await?;
    writing.await??;
    assert!(heard == sent, "{} of {LARGE} bytes", heard.len());
    let status = process.take_status().expect("once").await.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    assert_eq!(causes[0].message.as_deref(), Some("5"));
    process.join().await?;
    Ok(())
}

async fn terminal(pods: &Api<Pod>) -> anyhow::Result<()> {
    let params = AttachParams::interactive_tty();
    let mut process = pods.exec("web", ["sh"], &params).await?;
    let mut sizes = process.terminal_size().expect("a terminal");
    futures::SinkExt::send(&mut sizes, TerminalSize { height: 33, width: 77 }).await?;
    let mut stdin = process.stdin().expect("asked for");
    let mut stdout = process.stdout().expect("asked for");
    stdin.write_all(b"while [ \"$(stty size)\" != '33 77' ]; do sleep 0.1; done; exit\n").await?;
    let mut screen = String::new();
    stdout.read_to_string(&mut screen).await?;
    let status = process.take_status().expect("once").await.expect("a status");
    assert_eq!(status.status.as_deref(), Some("Success"), "{screen}");
    Ok(())
}

async fn forward(pods: &Api<Pod>) -> anyhow::Result<()> {
    let mut forwarder = pods.portforward("web", &[8080, 81]).await?;
    let refused = forwarder.take_error(81).expect("once");
    let mut stream = forwarder.take_stream(8080).expect("once");
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").await?;
    let mut answer = vec![0; 1024];
    let mut heard = String::new();
    while !heard.ends_with("hello\n") {
        let count = stream.read(&mut answer).await?;
        anyhow::ensure!(count > 0, "ended after {heard:?}");
        heard.push_str(&String::from_utf8_lossy(&answer[..count]));
    }
    let text = refused.await.expect("nobody listens there");
    assert!(text.contains("Connection refused"), "{text}");
    Ok(())
}
