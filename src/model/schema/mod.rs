//! Schemas of all kinds, and checking an object against its schema.
//!
//! The schemas are one packed table ([`table`]), generated with the resource table.

pub mod table;

pub use table::TypeId;
