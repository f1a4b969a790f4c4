#![doc = include_str!("../README.md")]
#![allow(unsafe_code)]

mod batches;
pub mod bulkstat;
pub mod cachestat;
pub mod dedupe;
pub mod dm;
mod error;
pub mod f2fs;
pub mod fallocate;
pub mod fiemap;
pub mod fsmap;
pub mod fsuuid;
pub mod fsxattr;
pub mod guard;
pub mod handle;
pub mod inode;
#[doc(hidden)]
pub mod ioctl;
pub mod kprobe;
pub mod lease;
pub mod mapping;
pub mod process;
pub mod quota;
pub mod statx;
pub mod xattr;
pub mod xfs;

pub use error::{Error, Result, meaning};
pub use nix::errno::Errno;
