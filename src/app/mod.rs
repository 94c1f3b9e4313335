//! Configuration, roles and their supervision, command line.
