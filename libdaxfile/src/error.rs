use nix::errno::Errno;

/// A failed kernel call: which one, and the errno it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}", meaning(*errno))]
pub struct Error {
    /// The call as strace(1) prints it, with the ioctl or command in parentheses: `ioctl(FS_IOC_FIEMAP)`.
    pub call: &'static str,
    /// What the kernel answered.
    pub errno: Errno,
}

/// What an errno means, in the words of strerror(3).
#[must_use]
pub fn meaning(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What every function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns libc's `-1` convention into a [`Result`].
pub(crate) fn check(call: &'static str, returned: libc::c_int) -> Result<libc::c_int> {
    Errno::result(returned).map_err(|errno| Error { call, errno })
}
