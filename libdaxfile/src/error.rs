use nix::errno::Errno;

/// A failed kernel call: which call, and the errno that it returned.
///
/// Match on [`errno`](Error::errno); each function's documentation says what its errnos mean.
///
/// ```
/// use libdaxfile::{Errno, xfs};
///
/// let file = std::fs::File::open("/proc/self/exe")?;
/// match xfs::geometry(&file) {
///     Ok(geometry) => println!("XFS with blocks of {} bytes", geometry.block_size),
///     Err(error) if error.errno == Errno::ENOTTY => println!("not XFS"),
///     Err(error) => eprintln!("{error}"), // "ioctl(XFS_IOC_FSGEOMETRY): Input/output error"
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}", meaning(*errno))]
pub struct Error {
    /// The call as strace(1) prints it, with the ioctl or command in parentheses: `ioctl(FS_IOC_FIEMAP)`.
    ///
    /// It is for messages; programs should decide by [`errno`](Error::errno).
    pub call: &'static str,
    /// The errno that the kernel returned.
    pub errno: Errno,
}

/// Returns the meaning of an errno in the words of strerror(3), without its number.
///
/// ```
/// use libdaxfile::{Errno, meaning};
///
/// assert_eq!(meaning(Errno::ENOSPC), "No space left on device");
/// ```
#[must_use]
#[doc(alias = "strerror")]
pub fn meaning(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The result of every function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns libc's `-1` convention into a [`Result`].
pub(crate) fn check(call: &'static str, returned: libc::c_int) -> Result<libc::c_int> {
    Errno::result(returned).map_err(|errno| Error { call, errno })
}
