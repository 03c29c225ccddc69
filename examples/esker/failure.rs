//! How a command ends badly: one line on stderr and an exit code.

use std::io;
use std::io::Write as _;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told in one line.
    Message(String),
    /// Told already.
    Silent,
    /// Whoever read our output has enough of it, as in `esker scan … | head`.
    BrokenPipe,
}

/// The result of anything a command does.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::Message(message.into())
    }

    /// The exit code; the line on stderr is printed here.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Message(message) => {
                let line: Vec<&str> = message.lines().map(str::trim).collect();
                // Nothing is left to be done if stderr is gone.
                let _ = writeln!(io::stderr(), "error: {}", line.join(" "));
                ExitCode::FAILURE
            }
            Failure::Silent => ExitCode::FAILURE,
            Failure::BrokenPipe => ExitCode::SUCCESS,
        }
    }
}

impl From<esker::Error> for Failure {
    fn from(error: esker::Error) -> Failure {
        Failure::Message(error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// A failed write to stdout. Other files go through [`Failure::io`], which names them.
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::BrokenPipe
        } else {
            Failure::Message(format!("cannot write the output: {error}"))
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::from(io::Error::from(error))
    }
}

impl Failure {
    /// `cannot <op> <name>: …`
    pub(crate) fn io(op: &str, name: impl std::fmt::Display, error: &io::Error) -> Failure {
        Failure::Message(format!("cannot {op} {name}: {error}"))
    }
}
