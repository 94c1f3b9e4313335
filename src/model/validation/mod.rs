//! What the API server refuses, with its exact words.
