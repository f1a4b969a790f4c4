//! What goes wrong: the call, its errno, and what to do about it.

use libdaxfile::Errno;

use crate::status::Status;

/// A failure to look at, or to act on, one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Error {
    /// The exit status that it stands for.
    pub status: Status,
    /// The kernel call that failed, if one did.
    pub call: Option<&'static str>,
    /// What the kernel answered.
    pub errno: Option<Errno>,
    /// What it means here, and what to do.
    pub message: String,
    /// Whether it was the user who ended it.
    pub interrupted: bool,
    /// Whether the message says it all, so that call and errno are not named before it.
    pub complete: bool,
}

/// What most functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that no kernel call reported.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Error { status, call: None, errno: None, message: message.into(), interrupted: false, complete: true }
    }

    /// The user ended it; `left` says what that leaves.
    pub fn interrupted(left: &str) -> Self {
        Error { interrupted: true, ..Error::new(Status::Failed, format!("interrupted; {left}")) }
    }

    /// A failed kernel call; the errno decides the exit status.
    pub fn call(call: &'static str, errno: Errno) -> Self {
        Error { call: Some(call), ..Error::foreseen(errno) }
    }

    /// What a kernel call would answer, had it been made.
    pub fn foreseen(errno: Errno) -> Self {
        let status = match errno {
            Errno::EPERM | Errno::EACCES => Status::NotPermitted,
            Errno::EROFS | Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS => Status::Unable,
            Errno::EAGAIN | Errno::EBUSY | Errno::ETXTBSY => Status::Busy,
            _ => Status::Failed,
        };
        Error { status, call: None, errno: Some(errno), message: String::new(), interrupted: false, complete: false }
    }

    /// The same failure with what it means here.
    #[must_use]
    pub fn because(self, message: impl Into<String>) -> Self {
        Error { message: message.into(), ..self }
    }

    /// The same failure, said in these words alone.
    #[must_use]
    pub fn in_words(self, message: impl Into<String>) -> Self {
        Error { message: message.into(), complete: true, ..self }
    }

    fn describe(&self) -> String {
        if self.complete {
            return self.message.clone();
        }
        let call = self.call.unwrap_or_default().to_owned();
        let parts = [call, self.errno.map(libdaxfile::meaning).unwrap_or_default(), self.message.clone()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

impl From<libdaxfile::Error> for Error {
    fn from(error: libdaxfile::Error) -> Self {
        Error::call(error.call, error.errno)
    }
}

/// Names the call that a bare errno came from.
pub trait Named<T> {
    /// The error of this call.
    ///
    /// # Errors
    /// That of the result.
    fn named(self, call: &'static str) -> Result<T>;
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| Error::call(call, errno))
    }
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, call: &'static str) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Error::call(call, Errno::from_raw(errno)),
            None => Error::new(Status::Failed, format!("{call}: {error}")),
        })
    }
}

/// `None` where the filesystem does not know the call at all; every other failure stays one.
pub(crate) fn if_known<T>(result: libdaxfile::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno, Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
