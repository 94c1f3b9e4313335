//! A process in a running container for one client.

use std::time::{Duration, Instant};

use model::limits::CHANNEL_FRAME_BYTES_MAX;
use model::status::{exit_status, stream_failure};
use model::wire::ExecRequestV1;
use model::wire::channel::{self, BEGUN, STDERR, STDIN, STDOUT};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Frames, finish, say};
use crate::io::keeper::{ExecResultV1, Keeper, KeeperError, Pipe, Session, SessionEnd, SessionV1};
use crate::io::link::{StreamAnswer, StreamInput};

/// How long output is still awaited after the process ended (its children may hold the pipe).
const LATE_OUTPUT: Duration = Duration::from_millis(100);

/// Runs the process until it ends or its client has gone.
pub(crate) async fn exec(
    keeper: Keeper,
    id: String,
    request: ExecRequestV1,
    answer: StreamAnswer,
    input: StreamInput,
) {
    if say(&answer, BEGUN, b"").await.is_err() {
        return;
    }
    let stdio = request.stdio;
    let session = SessionV1 {
        id,
        argv: request.command,
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        tty: stdio.tty,
    };
    // Cancel safety: a request that is dropped closes its connection, which kills the process.
    let begun = tokio::select! {
        begun = keeper.session(session) => begun,
        () = answer.closed() => return,
    };
    let Session { stdin, stdout, stderr, end } = match begun {
        Ok(session) => session,
        Err(error) => return finish(&answer, &stream_failure(&refusal(&error))).await,
    };
    let terminal = stdin.as_ref().filter(|_| stdio.tty).and_then(|pipe| pipe.try_clone().ok());
    let outcome = {
        let feeding = feed(Frames::new(input), stdin.filter(|_| stdio.stdin), terminal);
        let [stdout_wanted, stderr_wanted] = [stdio.stdout, stdio.stderr];
        let outputs = [(stdout, STDOUT, stdout_wanted), (stderr, STDERR, stderr_wanted)];
        // Cancel safety: what is dropped here belongs to a client that has gone, or to a process that
        // has ended.
        tokio::select! {
            outcome = drain(outputs, end, &answer) => outcome,
            () = feeding => return,
            () = answer.closed() => return,
        }
    };
    let status = match outcome {
        Ok(result) => exit_status(code_of(&result)),
        Err(error) => stream_failure(&refusal(&error)),
    };
    finish(&answer, &status).await;
}

fn refusal(error: &KeeperError) -> String {
    let text = match error {
        KeeperError::Refused { text, .. } => text.clone(),
        other => other.to_string(),
    };
    format!("error executing command in container: failed to exec in container: {text}")
}

fn code_of(result: &ExecResultV1) -> i32 {
    result.code.unwrap_or_else(|| result.signal.map_or(137, |signal| 128 + signal))
}

/// Gives the process what its client sends; ends when the client has gone.
async fn feed(mut frames: Frames, mut stdin: Option<Pipe>, terminal: Option<Pipe>) {
    while let Some((kind, bytes)) = frames.next().await {
        match kind {
            STDIN => {
                if let Some(pipe) = &stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    // It reads no more; the rest is for nobody.
                    stdin = None;
                }
            }
            channel::RESIZE => {
                if let (Some(terminal), Some((columns, rows))) =
                    (&terminal, channel::resize_of(&bytes))
                {
                    // One that is just going away has no size.
                    let _ = terminal.resize(columns, rows);
                }
            }
            channel::CLOSE => stdin = None,
            _ => {}
        }
    }
}

/// Sends what the process says until it has ended and everything is sent.
async fn drain(
    outputs: [(Option<Pipe>, u8, bool); 2],
    mut end: SessionEnd,
    answer: &StreamAnswer,
) -> Result<ExecResultV1, KeeperError> {
    let (tell, ended) = watch::channel(false);
    let [first, second] = outputs;
    let waiting = async {
        let result = end.wait().await;
        tell.send_replace(true);
        result
    };
    let (result, (), ()) = tokio::join!(
        waiting,
        copy(first, ended.clone(), answer),
        copy(second, ended.clone(), answer),
    );
    result
}

async fn copy(
    (pipe, kind, wanted): (Option<Pipe>, u8, bool),
    mut ended: watch::Receiver<bool>,
    answer: &StreamAnswer,
) {
    let Some(pipe) = pipe else { return };
    let mut buffer = vec![0; CHANNEL_FRAME_BYTES_MAX];
    let mut late = LATE_OUTPUT;
    loop {
        let count = if *ended.borrow() {
            // What the process has said is in the pipe; what its children say is not waited for.
            match pipe.read_now(&mut buffer) {
                Ok(Some(count)) => count,
                Ok(None) => {
                    let asked = Instant::now();
                    let Ok(Ok(count)) = timeout(late, pipe.read(&mut buffer)).await else { return };
                    late = late.saturating_sub(asked.elapsed());
                    count
                }
                Err(_) => return,
            }
        } else {
            // Cancel safety: a read that is dropped has read nothing.
            tokio::select! {
                biased;
                read = pipe.read(&mut buffer) => match read {
                    Ok(count) => count,
                    Err(_) => return,
                },
                _ = ended.wait_for(|ended| *ended) => continue,
            }
        };
        if count == 0 || (wanted && say(answer, kind, &buffer[..count]).await.is_err()) {
            return;
        }
    }
}
