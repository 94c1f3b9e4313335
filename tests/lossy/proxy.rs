//! A bad wire for MQTT: it ends TLS on both sides with certificates of the cluster, and loses, doubles,
//! delays and reorders PUBLISH packets in both directions; now and then it cuts a connection.
//!
//! All other packets pass at once: a lost SUBACK is a broken broker, not a bad wire.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kumquat::io::bus;
use kumquat::io::tls::{Clients, Credentials, board_peer};
use model::limits::{BUS_PAYLOAD_BYTES_MAX, LINK_FRAMES_MAX};
use rumqttc::mqttbytes::{self, PacketType};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bed::Authority;
use crate::loss::{Random, Tally, relay};

/// Room for a topic and a header beside the largest payload.
const PACKET_BYTES_MAX: usize = BUS_PAYLOAD_BYTES_MAX + 4 * 1024;
/// A connection that is to be cut lives this long at most.
const LIFE_MILLIS_MAX: u64 = 12_000;

/// How bad the wire is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Badness {
    /// Share of PUBLISH packets that something happens to.
    pub(crate) percent: u64,
    /// Whether connections are cut.
    pub(crate) cuts: bool,
}

/// The wire; it ends with this value.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What every connection is made with.
struct Wire {
    authority: Arc<Authority>,
    /// One key per board: a name belongs to the first.
    shown: Mutex<HashMap<String, Credentials>>,
    master_port: u16,
    badness: Badness,
    random: Mutex<Random>,
    tally: Arc<Tally>,
}

impl Proxy {
    /// Between boards and the master on `master_port`.
    pub(crate) async fn start(
        authority: Arc<Authority>,
        master_port: u16,
        badness: Badness,
        random: Random,
        tally: Arc<Tally>,
    ) -> Self {
        let tls = authority.credentials("boss", true);
        let tls = tls.server_config(Clients::Required, &[bus::ALPN]).expect("TLS");
        let acceptor = TlsAcceptor::from(tls);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let random = Mutex::new(random);
        let wire = Wire { authority, shown: Mutex::default(), master_port, badness, random, tally };
        let wire = Arc::new(wire);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, wire) = (acceptor.clone(), wire.clone());
                // Ends with its two connections.
                tokio::spawn(async move { wire.carry(&acceptor, stream).await });
            }
        });
        Self { port, accepting }
    }
}

impl Wire {
    fn draw(&self) -> Random {
        Random::new(self.random.lock().expect("not poisoned").next())
    }

    async fn carry(&self, acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let board = acceptor.accept(stream).await?;
        let chain = board.get_ref().1.peer_certificates().unwrap_or_default();
        let name = board_peer(chain).map_err(io::Error::other)?.name;
        let shown = {
            let mut all = self.shown.lock().expect("not poisoned");
            let new = || self.authority.credentials(&name, false);
            all.entry(name.clone()).or_insert_with(new).clone()
        };
        let tls = shown.client_config(&[bus::ALPN]);
        let connector = TlsConnector::from(tls.map_err(io::Error::other)?);
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.master_port)).await?;
        stream.set_nodelay(true)?;
        let host = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
        let master = connector.connect(host, stream).await?;

        let (from_board, to_board) = tokio::io::split(board);
        let (from_master, to_master) = tokio::io::split(master);
        let life = async {
            match self.badness.cuts {
                true => {
                    let millis = 1_000 + self.draw().below(LIFE_MILLIS_MAX);
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    Tally::count(&self.tally.cut);
                }
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.direction(from_board, to_master) => ended,
            ended = self.direction(from_master, to_board) => ended,
            () = life => Ok(()),
        }
    }

    /// Packets of one direction, until either end is gone.
    async fn direction(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (publishes, lossy) = mpsc::channel(LINK_FRAMES_MAX);
        let (out, mut due) = mpsc::channel::<Bytes>(LINK_FRAMES_MAX);
        let passing = out.clone();
        let read = async {
            let mut buffer = BytesMut::new();
            while from.read_buf(&mut buffer).await? > 0 {
                while let Some((kind, packet)) = cut_packet(&mut buffer)? {
                    let queue = if kind == PacketType::Publish { &publishes } else { &passing };
                    queue.send(packet).await.map_err(io::Error::other)?;
                }
            }
            Ok(())
        };
        let write = async {
            while let Some(packet) = due.recv().await {
                to.write_all(&packet).await?;
                to.flush().await?;
            }
            Ok(())
        };
        tokio::select! {
            ended = read => ended,
            ended = write => ended,
            () = relay(lossy, out, self.badness.percent, self.draw(), &self.tally) => Ok(()),
        }
    }
}

/// The first packet of a stream, once it is whole.
fn cut_packet(buffer: &mut BytesMut) -> io::Result<Option<(PacketType, Bytes)>> {
    match mqttbytes::check(buffer.iter(), PACKET_BYTES_MAX) {
        Ok(header) => {
            let kind = header.packet_type().map_err(io::Error::other)?;
            Ok(Some((kind, buffer.split_to(header.frame_length()).freeze())))
        }
        Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}
