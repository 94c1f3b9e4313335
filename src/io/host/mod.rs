//! The host: cgroups, /proc, /sys.
