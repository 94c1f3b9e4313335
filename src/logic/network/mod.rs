//! The network as values: what the objects say, and what a board makes of it.
//!
//! Input: the world on a master, [`model::network::NetState`] on a board. Output: values that adapters
//! carry out. Nothing here touches a socket or a rule.

pub mod address_pool;
pub mod assigned;
pub mod drain;
pub mod feed;
pub mod local;
pub mod paths;
mod pods;
mod policy;
pub mod reach;
pub mod rules;
mod service;
mod site_names;

pub use site_names::{SiteNames, site_names};

#[cfg(test)]
mod tests;
