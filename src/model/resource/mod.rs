//! The resource table: one row per kind drives routes, discovery, OpenAPI, tables and RBAC.
