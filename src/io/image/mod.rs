//! Images of a board: content store, import and export of archives, layers for overlayfs.
//!
//! In: archives (OCI image layout or `docker save`, plain, gzip or zstd), and blobs of images that
//! other boards have, from a [`Source`]. Out: directories that
//! overlayfs takes as lower directories, and how to run them. Invariant: what the record names is
//! verified by digest and durable, after a power cut at any moment. Deliberately absent: registries
//! (later work), signatures, sparse files.

mod archive;
mod blob;
pub mod build;
mod decompress;
mod digest;
mod document;
mod error;
mod export;
mod fetch;
mod import;
mod layer;
mod merged;
mod name;
mod partial;
mod platform;
mod record;
mod store;
mod tarstream;
#[cfg(test)]
mod tests;
mod tree;

pub use blob::{Chunks, blobs_of_manifest};
pub use digest::Digest;
pub use document::ImageConfig;
pub use error::ImageError;
pub use fetch::{Answer, FetchError, Fetched, Source, SourceError};
pub use name::ImageName;
pub use platform::Platform;
pub use store::{Hold, Image, ImageStore, ImageSummary};
