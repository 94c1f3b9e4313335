//! The API server: HTTP, negotiation, routes, watches.
