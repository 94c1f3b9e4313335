//! The driver of all controllers, and the views they read.
