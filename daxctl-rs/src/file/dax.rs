//! DAX: accesses that bypass the page cache and go straight to persistent memory, and the reasons why a file cannot be
//! accessed this way.
//!
//! Reference: `Documentation/filesystems/dax.rst`; `xfs_inode_should_enable_dax()`, `ext4_should_enable_dax()`.

use libdaxfile::fsxattr::Xflags;
use libdaxfile::mapping;
use libdaxfile::statx::{Attributes, Statx};
use nix::unistd::{SysconfVar, sysconf};

use crate::error::{Result, ResultExt};
use crate::file::target::{InodeState, Target};
use crate::name::quote;
use crate::system::devices;
use crate::system::mounts::Mount;

/// Whether the kernel grants mappings with `MAP_SYNC`. Does not ask the kernel if the file is not accessed as DAX.
///
/// # Errors
/// An error of mmap(2), for example when a security module refuses the mapping.
pub fn grants_map_sync(target: &Target, statx: &Statx) -> Result<bool> {
    if !statx.attributes.contains(Attributes::DAX) {
        return Ok(false);
    }
    target.spare_access_time()?;
    Ok(mapping::grants_sync(target)?)
}

/// A reason why a file does not meet `--dax`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The device has no DAX.
    Device,
    /// The filesystem's block size differs from the page size.
    BlockSize {
        /// Block size in bytes.
        block: u64,
        /// Page size in bytes.
        page: u64,
    },
    /// The mount options exclude DAX.
    Never(Mount),
    /// The file's DAX flag is off.
    Flag,
    /// The flag was set while the kernel had the inode in memory.
    Stale,
    /// The mount asks for DAX on all files, but the kernel does not use it for this one.
    Excepted,
    /// The kernel grants no `MAP_SYNC`.
    MapSync,
}

impl Missing {
    /// The reason in words.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Missing::Device => "its device has no DAX".into(),
            Missing::BlockSize { block, page } => {
                format!("blocks of {block} bytes, but DAX needs blocks of one page, {page} bytes")
            }
            Missing::Never(_) => "mounted with dax=never".into(),
            Missing::Flag => "accessed through the page cache: its DAX flag is off".into(),
            Missing::Stale => "accessed through the page cache: its DAX flag was set while the file was in use".into(),
            Missing::Excepted => "accessed through the page cache, though mounted with dax=always".into(),
            Missing::MapSync => "stores are not durable once flushed from CPU caches: the device needs fsync(2)".into(),
        }
    }

    /// The command that removes the reason; `file` is the file's name, quoted for a shell.
    #[must_use]
    pub fn remedy(&self, file: &str) -> String {
        match self {
            Missing::Device | Missing::MapSync => {
                format!("cp {file} to persistent memory that is mounted with dax=always")
            }
            Missing::BlockSize { page, .. } => format!("cp {file} to a filesystem with blocks of {page} bytes"),
            Missing::Never(mount) => {
                let (point, source) = (quote(&mount.point), quote(&mount.source));
                format!("umount {point} && mount -o dax=always {source} {point}")
            }
            Missing::Flag => format!("chattr +x {file}"),
            // The kernel reads the flag when it reads the inode.
            Missing::Stale => "close it in every process, then echo 2 >/proc/sys/vm/drop_caches".into(),
            // ext4 excepts files whose data it journals, encrypts or verifies.
            Missing::Excepted => format!("cp --reflink=never {file} NEW"),
        }
    }
}

/// Returns the reason why a file is not accessed as DAX with `MAP_SYNC`. `map_sync` says whether the kernel grants it.
///
/// # Errors
/// An error of sysconf(3), or of reading how the filesystem is mounted.
pub fn missing(target: &Target, inode: &InodeState, map_sync: bool) -> Result<Option<Missing>> {
    if inode.statx.attributes.contains(Attributes::DAX) {
        return Ok((!map_sync).then_some(Missing::MapSync));
    }
    if devices::has_dax(inode.statx.device) != Some(true) {
        return Ok(Some(Missing::Device));
    }
    let page = sysconf(SysconfVar::PAGE_SIZE).call("sysconf(_SC_PAGESIZE)")?;
    let (block, page) = (target.filesystem.block_size, page.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096));
    if block != page {
        return Ok(Some(Missing::BlockSize { block, page }));
    }
    let mount = target.mount()?;
    let mounted = |option: &str| mount.as_ref().is_some_and(|mount| mount.options.iter().any(|one| one == option));
    Ok(Some(match mount {
        Some(ref never) if mounted("dax=never") => Missing::Never(never.clone()),
        _ if mounted("dax=always") || mounted("dax") => Missing::Excepted,
        _ if inode.xflags().contains(Xflags::DAX) => Missing::Stale,
        _ => Missing::Flag,
    }))
}
