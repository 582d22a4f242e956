//! The one error type: its kind answers "what now?", its text names object, expected and got.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The code of errors about bytes for which the disk has no room.
pub const DISK_FULL: &str = "disk_full";
/// The code of errors about a file system that takes no writes.
pub const DISK_READ_ONLY: &str = "disk_read_only";
/// The code of errors about files that the operating system does not let this user write.
pub const DISK_FORBIDDEN: &str = "disk_forbidden";
/// The code of errors about memory, or maps of files, that the operating system does not give.
pub const OUT_OF_MEMORY: &str = "out_of_memory";

/// The code of errors about files that are not opened as too many are open already: in this process, or on the machine.
pub const TOO_MANY_OPEN_FILES: &str = "too_many_open_files";

/// The code of errors about a file that is there and that the operating system does not let read: nothing is known to be wrong with it.
pub const UNREADABLE: &str = "unreadable";

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong; sending it again unchanged fails again.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The state moved on or forbids this; read it again and decide anew.
    Conflict,
    /// Something this needs is away (disk full, node stopping); the same request may succeed later.
    Unavailable,
    /// A bound is reached; wait and send the same again.
    Busy,
    /// Stored bytes are not what was written; run `shoal check`, then `shoal repair`.
    Corrupt,
    /// Understood, but not offered here.
    Unsupported,
    /// A defect in Shoal or the machine.
    Internal,
}

/// An error with its kind, a text for a person, and the steps it passed through.
pub struct Error {
    kind: Kind,
    /// A stable word for programs, such as `precondition_failed`; empty when the kind says it all.
    code: &'static str,
    message: String,
    hint: Option<String>,
    /// The attribute a schema error is about; the API echoes it beside the text.
    attribute: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, code: "", message: message.into(), hint: None, attribute: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(Kind::Busy, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// What came of reading a file or a directory of the store.
    pub fn reading(error: std::io::Error) -> Self {
        let is_forbidden = error.kind() == std::io::ErrorKind::PermissionDenied;
        let error = if is_forbidden { Error::internal(error.to_string()) } else { Error::from(error) };
        if error.kind != Kind::Internal {
            return error;
        }
        let hint = match is_forbidden {
            true => "its owner, its mode and those of the directories above it must let the daemon's user read it",
            false => "it may be whole: look at the disk, its cable and the kernel's log",
        };
        error.with_code(UNREADABLE).with_hint(hint)
    }

    /// Whether it says that stored bytes could not be read, and nothing of what they are.
    pub fn is_unread(&self) -> bool {
        !matches!(self.kind, Kind::Corrupt | Kind::Unsupported | Kind::NotFound)
    }

    /// Whether it says that the operating system gives the process no more of something: of the files that it then did not read nothing
    /// is known, and nothing is wrong with them.
    pub fn is_of_limits(&self) -> bool {
        self.code == TOO_MANY_OPEN_FILES || self.code == OUT_OF_MEMORY
    }

    /// The same error, with a stable word for programs.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// The same error, with what to do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, with that where nothing is said yet about what to do.
    pub fn or_hint(self, hint: &str) -> Self {
        if self.hint.is_some() { self } else { self.with_hint(hint) }
    }

    /// The same error, naming the attribute it is about.
    pub fn with_attribute(mut self, attribute: impl Into<String>) -> Self {
        self.attribute = Some(attribute.into());
        self
    }

    /// The same error, with the step that failed in front: `open namespace a/b/c: ...`.
    pub fn context(mut self, step: impl fmt::Display) -> Self {
        self.message = format!("{step}: {}", self.message);
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub fn attribute(&self) -> Option<&str> {
        self.attribute.as_deref()
    }

    /// A second copy, for the many writers that share one failed sync.
    pub fn duplicate(&self) -> Self {
        Error {
            kind: self.kind,
            code: self.code,
            message: self.message.clone(),
            hint: self.hint.clone(),
            attribute: self.attribute.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            return Error::unavailable(error.to_string()).with_code(TOO_MANY_OPEN_FILES).with_hint(
                "send the same again later; raise the limit on open files (LimitNOFILE, ulimit -Hn, fs.file-max), or lower \
                 storage.open_namespaces_max",
            );
        }
        match error.kind() {
            ErrorKind::NotFound => Error::not_found(error.to_string()),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Error::unavailable(error.to_string())
                    .with_code(DISK_FULL)
                    .with_hint("free space, or inodes (`df -i`), for the data directory; writes resume by themselves")
            }
            ErrorKind::ReadOnlyFilesystem => Error::unavailable(error.to_string())
                .with_code(DISK_READ_ONLY)
                .with_hint("mount the data directory's file system for writing; writes resume by themselves"),
            ErrorKind::PermissionDenied => Error::unavailable(error.to_string()).with_code(DISK_FORBIDDEN).with_hint(
                "its owner, its mode and those of the directories above it must let this user read and write it; writes resume by \
                 themselves",
            ),
            ErrorKind::OutOfMemory => Error::unavailable(error.to_string())
                .with_code(OUT_OF_MEMORY)
                .with_hint("raise the limits on address space (RLIMIT_AS) and on maps (vm.max_map_count)"),
            _ => Error::internal(error.to_string()),
        }
    }
}

/// Adds the step that failed to an error on its way up.
pub trait Context<T> {
    fn context<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(step()))
    }
}
