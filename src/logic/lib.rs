//! Decisions of kumquat: controllers, scheduler, pod lifecycle.
//!
//! Floor 2: synchronous and pure. No IO, no clock, no randomness of its own; time and seeds come in
//! as arguments, and what to do goes out as data.

pub mod access;
pub mod account;
pub mod contact;
pub mod controller;
pub mod dns;
pub mod doctor;
pub mod genesis;
pub mod masters;
pub mod network;
pub mod pod;
pub mod schedule;
pub mod time;
pub mod upgrade;
pub mod world;
