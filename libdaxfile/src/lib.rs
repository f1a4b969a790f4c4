//! Thin, typed wrappers of the Linux interfaces with which `daxfile` reads, allocates and holds a file's extent map.
//!
//! One module is one kernel interface. Every function takes `impl AsFd`, makes the call it is named for, and returns a
//! typed value or an [`Error`] that keeps the errno and names the call. There is no policy here and nothing is printed.
//! Offsets and lengths are bytes unless a name says otherwise.
//!
//! ```
//! use libdaxfile::fiemap::{Extents, Request};
//!
//! let file = std::fs::File::open("/proc/self/exe")?;
//! for extent in Extents::new(&file, 0..u64::MAX, Request::SYNC) {
//!     match extent {
//!         Ok(extent) => println!("{}+{} at {}", extent.logical, extent.length, extent.physical),
//!         Err(error) => println!("{error}"), // "ioctl(FS_IOC_FIEMAP): Operation not supported", say
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
#![allow(unsafe_code)]

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
pub mod inode;
mod ioctl;
pub mod kprobe;
pub mod lease;
pub mod mapping;
pub mod parents;
pub mod statx;
pub mod xattr;
pub mod xfs;

pub use error::{Error, Result, meaning};
pub use nix::errno::Errno;
