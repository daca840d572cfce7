//! Faults of containerd's files.
