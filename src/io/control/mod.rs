//! The Unix control socket of a board: HTTP/1 with JSON.
