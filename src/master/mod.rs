//! The master role: API server, controllers, scheduler, dispatcher.

pub mod access;
pub mod api;
pub mod audit;
pub mod boards;
pub mod bootstrap;
pub mod contacts;
pub mod controllers;
pub mod dispatcher;
pub mod elector;
pub mod join;
pub mod keys;
pub mod net;
pub mod registry;
pub mod tokens;
pub mod tunnel;
