//! The views of all objects, kept in memory and indexed for controllers.
