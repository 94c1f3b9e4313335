//! Real rules in real network namespaces: a board with two pods, another board behind it, and a client
//! outside that knows no way to pods.

mod bed;
mod program;
mod traffic;
