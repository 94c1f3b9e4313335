//! Schemas of all kinds, and checking an object against its schema.
