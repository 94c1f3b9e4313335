//! Reads and writes of API objects: strategies, versions, finalizers, allocation.
