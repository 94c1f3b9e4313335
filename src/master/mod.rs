//! The master role: API server, controllers, scheduler, dispatcher.

pub mod access;
pub mod accounts;
pub mod api;
pub mod audit;
pub mod authority;
pub mod boards;
pub mod bootstrap;
pub mod both;
pub mod contacts;
pub mod controllers;
pub mod dispatcher;
pub mod elector;
pub mod evict;
pub mod evictions;
pub mod join;
pub mod keys;
pub mod leave;
pub mod members;
pub mod net;
pub mod pending;
pub mod registry;
pub mod secrets;
pub mod tokens;
pub mod tunnel;
pub mod way;
