//! ioctl(2) requests that know the type of their argument.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

/// An ioctl request: its name, its number, and the type that its argument points to. A pointer to another type does not
/// compile:
///
/// ```compile_fail,E0308
/// # let file = std::fs::File::open("/proc/self/exe")?;
/// let mut wrong = 0u32;
/// // SAFETY: none; this does not compile.
/// unsafe { libdaxfile::fsxattr::FS_IOC_FSGETXATTR.call(&file, &raw mut wrong) };
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```
/// # let file = std::fs::File::open("/proc/self/exe")?;
/// let mut right = libdaxfile::fsxattr::Fsxattr::default();
/// // SAFETY: the kernel fills one `struct fsxattr`, which lives through the call.
/// let _ = unsafe { libdaxfile::fsxattr::FS_IOC_FSGETXATTR.call(&file, &raw mut right) };
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Ioctl<T> {
    call: &'static str,
    number: u64,
    argument: PhantomData<fn(*mut T)>,
}

/// The constructors are named for the macros of `include/uapi/asm-generic/ioctl.h`, and `Declared` is the type that the
/// kernel's headers give to the macro: it decides the number. Mostly it is `T`.
impl<T> Ioctl<T> {
    /// `_IO(group, number)`
    pub(crate) const fn none(call: &'static str, group: u8, number: u8) -> Self {
        Ioctl { call, number: nix::request_code_none!(group, number), argument: PhantomData }
    }

    /// `_IOR(group, number, Declared)`
    pub(crate) const fn read<Declared>(call: &'static str, group: u8, number: u8) -> Self {
        let number = nix::request_code_read!(group, number, size_of::<Declared>());
        Ioctl { call, number, argument: PhantomData }
    }

    /// `_IOW(group, number, Declared)`
    pub(crate) const fn write<Declared>(call: &'static str, group: u8, number: u8) -> Self {
        let number = nix::request_code_write!(group, number, size_of::<Declared>());
        Ioctl { call, number, argument: PhantomData }
    }

    /// `_IOWR(group, number, Declared)`
    pub(crate) const fn read_write<Declared>(call: &'static str, group: u8, number: u8) -> Self {
        let number = nix::request_code_readwrite!(group, number, size_of::<Declared>());
        Ioctl { call, number, argument: PhantomData }
    }

    /// The name in errors: `ioctl(FS_IOC_FIEMAP)`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.call
    }

    /// The error that this call reports with `errno`.
    pub(crate) const fn error(&self, errno: Errno) -> Error {
        Error { call: self.call, errno }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// Whatever errno the kernel returns.
    ///
    /// # Safety
    /// `argument` must point to a value that lives through the call and that nothing else uses meanwhile, unless the kernel
    /// only reads it. Counts and pointers in it must be true, and there must be room behind it for all that the kernel
    /// writes. Whatever bits the kernel writes must be valid for the types there.
    pub unsafe fn call(&self, fd: impl AsFd, argument: *mut T) -> Result<()> {
        #[allow(clippy::useless_conversion, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        let request = self.number as libc::Ioctl;
        // SAFETY: the descriptor is open for the borrow's length; the rest is the caller's promise.
        check(self.call, unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) }).map(drop)
    }
}

impl<T> From<Ioctl<T>> for u64 {
    /// The request's number.
    fn from(ioctl: Ioctl<T>) -> u64 {
        ioctl.number
    }
}

/// A device number as the kernel's structures hold it: `new_encode_dev()` in `include/linux/kdev_t.h`.
pub(crate) fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
