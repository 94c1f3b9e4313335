//! Adapters: each owns one outside thing and its crate, and none knows another.

pub mod backup;
pub mod bus;
pub mod clock;
pub mod code;
pub mod control;
pub mod crowd;
pub mod discovery;
pub mod dns;
pub mod durable;
pub mod exchange;
pub mod host;
pub mod image;
pub mod keeper;
pub mod link;
pub mod net;
pub mod peer;
pub mod seldom;
pub mod store;
pub mod tls;
pub mod upgrade;
