//! The control socket of a board: HTTP/1.1 over a Unix socket that only root may open.
//!
//! Client commands (`status`, `wait`, `image`, `kubeconfig`) talk to the running board here. The
//! server hands each request to one handler; what the paths mean is the handler's business.
//! Garbage ends its connection and nothing else.

mod client;
mod pieces;
mod server;

pub use client::{Answer, Client, ClientError};
pub use pieces::{PieceReader, PieceWriter};
pub use server::{Body, Handler, bind, bytes_body, json, serve, stream_body};
