//! Socket options of connections between boards: small messages leave at once, dead links are noticed.

use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// Sent bytes, or a question whether the peer lives, unanswered for so long end the connection.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(9);
const KEEP_ALIVE_INTERVAL_SECONDS: u32 = 3;

/// Sets them. `quiet_seconds`: silence after which the kernel asks. The end that asks sooner spares the
/// other. `unanswered`: what is sent and not answered for so long ends the connection.
///
/// # Errors
/// The kernel refuses one.
pub fn tune(stream: &TcpStream, quiet_seconds: u32, unanswered: Duration) -> io::Result<()> {
    let unanswered_ms = u32::try_from(unanswered.as_millis()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &quiet_seconds)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &unanswered_ms)?;
    Ok(())
}
