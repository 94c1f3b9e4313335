//! Words and data of kumquat: the resource table, schemas, views and wire messages.
//!
//! Floors 0 and 1: this crate does no IO, reads no clock, and knows no other crate of the project.

pub mod access;
pub mod backup;
pub mod defaulting;
pub mod genesis;
#[cfg(test)]
mod hostile;
pub mod ids;
pub mod interfaces;
pub mod join;
pub mod leader;
pub mod leave;
pub mod limits;
pub mod masters;
pub mod member;
pub mod network;
pub mod patch;
pub mod profile;
pub mod protobuf;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod timestamp;
pub mod token;
pub mod upgrade;
pub mod validation;
pub mod view;
pub mod wire;
pub mod words;
