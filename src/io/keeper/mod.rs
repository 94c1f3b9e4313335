//! The keeper: a small separate process that holds containers through libcontainer.
