//! The agent: desired pods on disk, pod drivers, status.
