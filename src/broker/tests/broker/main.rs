//! The broker over real sockets: the same behaviour as Debian's mosquitto, and what must be better.

mod client;
mod same;
mod server;
