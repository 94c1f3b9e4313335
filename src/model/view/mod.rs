//! Small typed views of the kinds that our own controllers read.
