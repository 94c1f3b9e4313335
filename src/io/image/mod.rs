//! Images: content store, OCI archives, layer unpacking.
