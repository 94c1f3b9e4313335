//! Defaults that the API server fills in.
