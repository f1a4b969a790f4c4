//! The machine around a file: filesystems and mounts, block devices, the kernel, active swap. This module does not know
//! a file's map.

pub mod devices;
mod ext;
pub mod filesystem;
pub(crate) mod fresh;
pub(crate) mod holders;
pub mod kernel;
pub(crate) mod locks;
pub mod mounts;
pub(crate) mod processors;
pub(crate) mod quotas;
pub mod resume;
pub(crate) mod swaps;
pub(crate) mod walk;
