//! Running the `daxfile` binary.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use crate::child::spawn;
use crate::tools::require;
use crate::workdir::new_dir;

/// One call of `daxfile`, to be run.
#[derive(Clone, Debug)]
pub struct Daxfile {
    args: Vec<OsString>,
    /// The capabilities that the user nobody gets, if it runs the call
    nobody: Option<String>,
    wrapper: Vec<OsString>,
    stdin: Option<Vec<u8>>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl Daxfile {
    /// `daxfile ARGS...`
    pub fn new<I, S>(args: I) -> Daxfile
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Daxfile { args: owned(args), nobody: None, wrapper: Vec::new(), stdin: None, env: Vec::new(), dir: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Daxfile {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<I, S>(mut self, args: I) -> Daxfile
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.args.extend(owned(args));
        self
    }

    /// Runs as user and group 65534, without other groups and without capabilities.
    pub fn as_nobody(mut self) -> Daxfile {
        self.nobody = Some(String::new());
        self
    }

    /// Like [`Daxfile::as_nobody`], but with these capabilities, as setpriv(1) names them: `["linux_immutable"]`.
    pub fn as_nobody_with(mut self, capabilities: &[&str]) -> Daxfile {
        self.nobody = Some(capabilities.iter().map(|capability| format!(",+{capability}")).collect());
        self
    }

    /// Runs through another program, such as `["strace", "-f"]`; with [`Daxfile::as_nobody`] that program runs as
    /// nobody, too.
    pub fn wrap<I, S>(mut self, wrapper: I) -> Daxfile
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.wrapper = owned(wrapper);
        self
    }

    /// Where the kernel has this command line, and is set to resume from this device and offset: files over its own.
    pub fn resuming_from(self, command_line: &str, device: &str, offset: u64) -> Daxfile {
        let script = format!(
            "mount -t tmpfs settings /sys/power
             echo '{device}' >/sys/power/resume
             echo {offset} >/sys/power/resume_offset
             echo '{command_line}' >/sys/power/command_line
             mount --bind /sys/power/command_line /proc/cmdline
             exec \"$0\" \"$@\""
        );
        self.wrap(["unshare", "--mount", "bash", "-euc", &script])
    }

    /// Sets the contents of standard input, which otherwise is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Daxfile {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Daxfile {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs in this working directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Daxfile {
        self.dir = Some(dir.into());
        self
    }

    /// The command itself, for tests that [`spawn`] it or redirect it; it does not include the input of
    /// [`Daxfile::stdin`].
    pub fn command(&self) -> Command {
        let mut line: Vec<OsString> = Vec::new();
        if let Some(capabilities) = &self.nobody {
            require(&["setpriv"]);
            line.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(OsString::from));
            // execve(2) keeps only the ambient capabilities of another user.
            line.extend(["inh", "ambient"].map(|set| format!("--{set}-caps=-all{capabilities}").into()));
            line.push("--".into());
        }
        line.extend(self.wrapper.iter().cloned());
        line.push(binary().into());
        line.extend(self.args.iter().cloned());

        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null());
        // The settings of the person that runs the tests must not show in the output.
        for name in ["NO_COLOR", "COLUMNS", "RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Run {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = spawn(&mut command);
        let stdin = child.stdin.take();
        let out = std::thread::scope(|scope| {
            if let (Some(mut pipe), Some(bytes)) = (stdin, self.stdin.as_ref()) {
                // A program may end before it has read everything, without failing the test: EPIPE is ignored.
                scope.spawn(move || pipe.write_all(bytes));
            }
            child.wait_with_output().expect("wait for the child")
        });
        Run {
            command: format!("{command:?}"),
            status: status_of(out.status),
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

/// `daxfile VERB... FILE`
pub fn run(verb: &[&str], file: &Path) -> Run {
    Daxfile::new(verb).arg(file).run()
}

/// The report of `daxfile VERB... --json FILE` on the file; the run must end with this exit status.
#[track_caller]
pub fn report(verb: &[&str], file: &Path, status: i32) -> serde_json::Value {
    Daxfile::new(verb).arg("--json").arg(file).run().expect(status).file()
}

/// `daxfile VERB... FILE`, which must succeed.
#[track_caller]
pub fn done(verb: &[&str], file: &Path) -> Run {
    run(verb, file).expect(0)
}

/// The words of the text for a blocker that JSON calls `kind`.
#[must_use]
pub fn words_of(kind: &str) -> String {
    kind.replace('_', " ").replace("eof", "EOF").replace("dax", "DAX")
}

/// The state of the file's pin, by `daxfile stat`.
#[track_caller]
pub fn state(file: &Path) -> String {
    report(&["stat"], file, 0)["pin"]["state"].as_str().expect("a state").to_owned()
}

/// The notes of a file's report, one a line.
#[track_caller]
pub fn notes(report: &serde_json::Value) -> String {
    let notes = report["notes"].as_array().expect("notes");
    notes.iter().map(|note| note.as_str().expect("text")).collect::<Vec<_>>().join("\n")
}

/// The result of a call.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command line, for messages
    pub command: String,
    /// The exit status, 128 + the signal if one ended it
    pub status: i32,
    /// Standard output
    pub stdout: Vec<u8>,
    /// Standard error
    pub stderr: String,
}

impl Run {
    /// Panics with the whole result unless the exit status is this one.
    #[track_caller]
    pub fn expect(self, status: i32) -> Run {
        assert!(self.status == status, "expected exit status {status} of {self}");
        self
    }

    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("not UTF-8: {e}: {self}"))
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {self}"))
    }

    /// The report of `--json` on the one file that was named.
    #[track_caller]
    pub fn file(&self) -> serde_json::Value {
        let report = self.json();
        let [file] = report["files"].as_array().map_or(&[][..], Vec::as_slice) else { panic!("not one file: {self}") };
        assert_eq!(file["exit_status"], self.status, "{self}");
        file.clone()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let (command, status, stderr) = (&self.command, self.status, &self.stderr);
        write!(f, "{command}: exit status {status}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---")
    }
}

/// The exit status as a shell gives it.
pub(crate) fn status_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("exited or killed")
}

fn owned<I, S>(args: I) -> Vec<OsString>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    args.into_iter().map(|arg| arg.as_ref().to_owned()).collect()
}

/// A copy of the binary that every user can reach.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("/proc is mounted");
        let built = test.parent().and_then(Path::parent).expect("the test is in target/PROFILE/deps").join("daxfile");
        assert!(
            built.is_file(),
            "{} is missing: run `cargo build --workspace --all-targets` first, or tests/run.sh",
            built.display()
        );
        // Cargo builds the program for no test here, so it may lack a change that the test was built with.
        let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        let sources = std::fs::read_to_string(built.with_extension("d")).unwrap_or_default();
        for source in sources.split_whitespace().skip(1) {
            let changed = modified(Path::new(source));
            assert!(
                changed <= modified(&built) || changed > modified(&test),
                "{} is older than {source}: run `cargo build --workspace --all-targets` first, or tests/run.sh",
                built.display()
            );
        }
        let copy = new_dir("bin.").keep().join("daxfile");
        std::fs::copy(&built, &copy).expect("a copy of the binary");
        copy
    })
}
