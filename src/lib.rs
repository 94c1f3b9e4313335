//! Kumquat: an embedded Kubernetes microcluster for ARM boards, one small static binary per board.
//!
//! Floors, each importing only lower ones: `model` and `logic` (crates of their own), then [`io`],
//! then [`master`] and [`node`] (which meet only through `model::wire`), then [`app`].

pub mod app;
pub mod io;
#[cfg(feature = "master")]
pub mod master;
#[cfg(feature = "node")]
pub mod node;
