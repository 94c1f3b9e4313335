//! Tests with the Rust Kubernetes client live in `tests/`; there is no library here.
