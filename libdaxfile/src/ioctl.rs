use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Result, check};

/// Makes an ioctl, and names it should it fail.
///
/// # Safety
/// `argument` must be what the kernel expects of `request`: valid for the reads and writes it does, and of a type for
/// which any bits that it writes are a valid value.
pub(crate) unsafe fn ioctl<T>(name: &'static str, fd: impl AsFd, request: u64, argument: *mut T) -> Result<()> {
    #[allow(clippy::useless_conversion, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    let request = request as libc::Ioctl;
    // SAFETY: the descriptor is open for the borrow's length; the rest is the caller's promise.
    check(name, unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) }).map(drop)
}

/// A device's number as structures have it: `new_encode_dev()` of `include/linux/kdev_t.h`.
pub(crate) fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
