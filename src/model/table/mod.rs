//! Rows of `kubectl get`: the server-side Table.
