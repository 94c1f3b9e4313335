//! The controllers: one file each, one shape.
