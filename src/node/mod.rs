//! The board role: agent, pod driver, status reporter, logs.

mod board;
mod container;
mod desired;
mod log_stream;
mod object;
mod place;
mod prober;
mod report;
mod volume;
