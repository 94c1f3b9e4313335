//! The board role: agent, pod driver, status reporter, logs.

pub mod agent;
