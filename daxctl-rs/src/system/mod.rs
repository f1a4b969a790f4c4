//! The machine around a file: filesystems and mounts, block devices, the kernel, active swap. Knows nothing of a file's map.

pub mod filesystem;
pub mod host;
pub(crate) mod swaps;
