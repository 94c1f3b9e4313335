//! The broker over real sockets: the same behaviour as Debian's mosquitto, and what must be better.

mod better;
mod bounds;
mod client;
mod owner;
mod same;
mod server;
