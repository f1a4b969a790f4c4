//! Errors: the failed call, its errno, and what to do about it.

use libdaxfile::Errno;

use crate::status::Status;

/// A failure to look at one file, or to change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Error {
    /// The exit status for this error.
    pub status: Status,
    /// The kernel call that failed, if one did.
    pub call: Option<&'static str>,
    /// The errno from the kernel.
    pub errno: Option<Errno>,
    /// The meaning of the error here, and what to do.
    pub message: String,
    /// Whether the user interrupted the work.
    pub interrupted: bool,
    /// Whether the message is complete, so that output does not put call and errno before it.
    pub complete: bool,
}

/// The result type of most functions in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes the error of a failure that no kernel call reported.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Error { status, call: None, errno: None, message: message.into(), interrupted: false, complete: true }
    }

    /// Makes the error of work that the user interrupted; `left` says what state that leaves.
    pub fn interrupted(left: &str) -> Self {
        Error { interrupted: true, ..Error::new(Status::Failed, format!("interrupted; {left}")) }
    }

    /// Makes the error of a failed kernel call; the errno decides the exit status.
    pub fn call(call: &'static str, errno: Errno) -> Self {
        Error { call: Some(call), ..Error::from_errno(errno) }
    }

    /// Makes the error that a kernel call would have returned.
    pub fn from_errno(errno: Errno) -> Self {
        let status = match errno {
            Errno::EPERM | Errno::EACCES => Status::NotPermitted,
            Errno::EROFS | Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS => Status::Unable,
            Errno::EAGAIN | Errno::EBUSY | Errno::ETXTBSY => Status::Busy,
            _ => Status::Failed,
        };
        Error { status, call: None, errno: Some(errno), message: String::new(), interrupted: false, complete: false }
    }

    /// Adds the meaning of the error here.
    #[must_use]
    pub fn because(self, message: impl Into<String>) -> Self {
        Error { message: message.into(), ..self }
    }

    /// Replaces all words of the error by these.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        Error { message: message.into(), complete: true, ..self }
    }

    fn describe(&self) -> String {
        if self.complete {
            return self.message.clone();
        }
        let failure = match (self.errno.map(libdaxfile::meaning), self.call) {
            (Some(meaning), Some(call)) => format!("{meaning} ({call})"),
            (Some(meaning), None) => meaning,
            (None, call) => call.unwrap_or_default().to_owned(),
        };
        [failure.as_str(), &self.message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

impl From<libdaxfile::Error> for Error {
    fn from(error: libdaxfile::Error) -> Self {
        Error::call(error.call, error.errno)
    }
}

/// Adds the name of the call to a bare errno.
pub trait ResultExt<T> {
    /// Turns the errno into an error of this call.
    ///
    /// # Errors
    /// The error of the result, with the name of the call.
    fn call(self, call: &'static str) -> Result<T>;
}

impl<T> ResultExt<T> for nix::Result<T> {
    fn call(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| Error::call(call, errno))
    }
}

impl<T> ResultExt<T> for std::io::Result<T> {
    fn call(self, call: &'static str) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Error::call(call, Errno::from_raw(errno)),
            None => Error::new(Status::Failed, format!("{error} ({call})")),
        })
    }
}

/// Returns `None` if the filesystem does not know the call at all; passes on every other error.
pub(crate) fn if_known<T>(result: libdaxfile::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno, Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
