//! A question on its way through the upstream servers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use logic::dns::{Packet, Question};

use crate::io::dns::{ask, ask_over_tcp};

/// How long one server may take before the next is asked.
const ATTEMPT: Duration = Duration::from_millis(900);
/// How often each server is asked.
const ROUNDS: u32 = 2;
/// How long all of it may take: less than clients wait.
const WITHIN: Duration = Duration::from_millis(3_600);

/// What came of it.
#[derive(Debug)]
pub(super) struct Journey {
    /// The answer, if there is one.
    pub(super) packet: Option<Packet>,
    /// Who gave it.
    pub(super) answered: Option<SocketAddr>,
    /// Who did not answer.
    pub(super) failed: Vec<SocketAddr>,
}

/// Asks servers in turn until one answers well.
pub(super) async fn travel(question: &Question, servers: &[SocketAddr]) -> Journey {
    let until = Instant::now() + WITHIN;
    let mut journey = Journey { packet: None, answered: None, failed: Vec::new() };
    for server in (0..ROUNDS).flat_map(|_| servers) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match ask(*server, question, ATTEMPT.min(left)).await {
            Ok(packet) => {
                journey.answered = Some(*server);
                let good = !packet.is_failure();
                journey.packet = Some(match packet.is_truncated() {
                    true => ask_over_tcp(*server, question, ATTEMPT).await.unwrap_or(packet),
                    false => packet,
                });
                if good {
                    break;
                }
            }
            Err(error) => {
                tracing::debug!(%server, %error, "an upstream DNS server does not answer");
                journey.failed.push(*server);
            }
        }
    }
    journey
}
