//! `daxfile`: parse, run, exit.
#![forbid(unsafe_code)]

mod cli;
mod render;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use daxfile::error::ResultExt;
use daxfile::name::quote;
use daxfile::pin::manifest::Manifest;
use daxfile::report::{ErrorReport, FileReport, Sink};
use daxfile::status::Status;
use daxfile::verbs::{alloc, check, list, map, pin, prepare, probe, stat, unpin, verify};

use cli::{Cli, Files, Page, Verb};
use render::progress::Meter;
use render::{Output, Printer};

fn main() -> ExitCode {
    render::progress::survive_file_size_limit();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return usage(&message),
    };
    // A lease announces an opener by this signal. Where this fails, each lease chooses a harmless one.
    let _ = libdaxfile::lease::ignore_signal();
    let meter = Meter::new(cli.common.quiet == 0);
    let mut printer = Printer::new(&cli);
    let named = Cell::new(1);
    let mut print = |mut file: FileReport| {
        suggest_files_in_directory(&cli.verb, &mut file);
        meter.suspend(|| printer.print(&file, named.get() == 1));
        if printer.closed() {
            meter.stop();
        }
    };
    match run(&cli, &meter, &named, &mut print) {
        Ok(status) => {
            let signal = meter.signal();
            let printed = printer.finish(status, named.get(), signal);
            if let Some(signal) = signal {
                // The work is undone and cleaned up. Now die of the signal, as its sender expects.
                render::progress::die_of(signal);
            }
            let unprinted = printed.err().and_then(|error| report_print_error(&error)).unwrap_or_default();
            ExitCode::from(status.max(unprinted) as u8)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "daxfile {}: {error:#}", cli.verb.name());
            let cause = error.downcast_ref::<daxfile::error::Error>();
            let status = cause.map_or(Status::Failed, |cause| cause.status);
            let report = ErrorReport {
                call: cause.and_then(|cause| cause.call),
                errno: cause.and_then(|cause| cause.errno).map(|errno| errno as i32),
                message: format!("{error:#}"),
                interrupted: false,
            };
            let unprinted = printer.fail(status, &report).err().and_then(|error| report_print_error(&error));
            ExitCode::from(status.max(unprinted.unwrap_or_default()) as u8)
        }
    }
}

/// Runs the command line; `named` receives the number of files that it names.
fn run(cli: &Cli, meter: &Meter, named: &Cell<usize>, sink: &mut Sink<'_>) -> Result<Status> {
    let changing = |files: &Files| -> Result<Vec<PathBuf>> {
        let paths = paths(files)?;
        named.set(paths.len());
        meter.catch_signals().context("sigaction")?;
        Ok(paths)
    };
    let look_at = |files: usize| -> Result<()> {
        named.set(files);
        // Work on one file has no point at which it could stop, so a signal may end the program.
        if files > 1 {
            Meter::work_in_child();
            meter.catch_signals_briefly().context("sigaction")?;
        }
        Ok(())
    };
    let looking = |files: &Files| -> Result<Vec<PathBuf>> {
        let paths = paths(files)?;
        look_at(paths.len())?;
        Ok(paths)
    };
    Ok(match &cli.verb {
        Verb::Alloc { size, shape, dry_run, file } => {
            let needs = daxfile::needs::Needs {
                align: shape.align,
                max_extents: shape.max_extents,
                ..daxfile::needs::Needs::default()
            };
            alloc::run(file, &alloc::Options { size: *size, needs, dry_run: *dry_run }, meter, sink)
        }
        Verb::Check { needs, files } => check::run(&looking(files)?, &needs.needs()?, meter, sink),
        Verb::Completions { shell } => completions(*shell),
        Verb::List { hold, state, paths, .. } => {
            let options = list::Options {
                holds: hold.iter().map(|hold| hold.0).collect(),
                states: state.iter().map(|state| state.0).collect(),
            };
            meter.catch_signals_briefly().context("sigaction")?;
            list::run(paths, &options, meter, sink)
        }
        Verb::Man { page } => man(*page),
        Verb::Map { format, unpinned, compare, file } => {
            if *compare && format.0 != map::Format::Resume {
                bail!("--compare requires --format resume");
            }
            let options = map::Options { format: format.0, unpinned: *unpinned, compare: *compare };
            map::run(file, options, meter, sink)
        }
        Verb::Pin { needs, wait, as_recorded, note, dry_run, files } => {
            let options = pin::Options {
                needs: needs.needs()?,
                as_recorded: *as_recorded,
                note: note.clone(),
                wait: Duration::from_secs(*wait),
                dry_run: *dry_run,
            };
            pin::run(&changing(files)?, &options, meter, sink)
        }
        Verb::Prepare { needs, dry_run, files } => {
            prepare::run(&changing(files)?, &needs.needs()?, *dry_run, meter, sink)
        }
        Verb::Probe { hold, path } => probe::run(path, hold.map(|hold| hold.0), sink),
        Verb::Unpin { dry_run, files } => unpin::run(&changing(files)?, *dry_run, meter, sink),
        Verb::Stat { extents, files } => stat::run(&looking(files)?, *extents, meter, sink),
        Verb::Verify { against: Some(manifest), root, files, .. } => {
            let manifest = read_manifest(manifest)?;
            let files = if files.files.is_empty() && files.files_from.is_none() {
                look_at(manifest.entries().len())?;
                Vec::new()
            } else {
                looking(files)?
            };
            verify::run_against(manifest, &files, root.as_deref(), meter, sink)
        }
        Verb::Verify { strict, files, .. } => verify::run(&looking(files)?, *strict, meter, sink),
    })
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(message: &clap::Error) -> ExitCode {
    let printed = match message.use_stderr() {
        false if libdaxfile::process::stdout_was_closed() => Output::new().write_all(b"help"),
        _ => message.print().and_then(|()| std::io::stdout().flush()),
    };
    let failed = printed.err().filter(|_| !message.use_stderr()).and_then(|error| report_print_error(&error));
    failed.map_or(ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2)), |status| ExitCode::from(status as u8))
}

/// If a named file is a directory, adds the command that works on the files in it.
fn suggest_files_in_directory(verb: &Verb, file: &mut FileReport) {
    if let Some(error) = &mut file.error
        && verb.takes_lists()
        && error.errno.is_none()
        && file.path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    {
        let (path, verb) = (quote(&file.path), verb.name());
        error.message +=
            &format!("; for the files in it: find {path} -type f -print0 | daxfile {verb} -0 --files-from -");
    }
}

fn completions(shell: Shell) -> Status {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "daxfile", &mut script);
    if shell == Shell::Bash {
        script = complete_files(&String::from_utf8_lossy(&script)).into_bytes();
    }
    print(&script)
}

/// The generated script proposes options where a verb takes files. If the script proposes nothing, bash itself
/// completes file names.
fn complete_files(script: &str) -> String {
    let verbs = Cli::command();
    let take_files = verbs.get_subcommands().filter(|verb| {
        verb.get_positionals().any(|argument| matches!(argument.get_id().as_str(), "file" | "files" | "path" | "paths"))
    });
    let labels: Vec<_> = take_files.map(|verb| format!("daxfile__subcmd__{})", verb.get_name())).collect();
    let mut inside = false;
    let mut complete = String::with_capacity(script.len());
    for line in script.split_inclusive('\n') {
        if line.trim_end().ends_with(')') && line.trim_start().starts_with("daxfile") {
            inside = labels.iter().any(|label| line.trim() == label);
        }
        complete += &match line {
            line if !inside => line.to_owned(),
            "            COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )\n" => {
                "            COMPREPLY=()\n".to_owned()
            }
            line => line.replace(" || ${COMP_CWORD} -eq 2 ]]", " ]]"),
        };
    }
    complete
}

/// Shows a page with man(1) on a terminal; elsewhere prints its source, which man(1) and mandoc(1) read.
fn man(page: Page) -> Status {
    let source = match page {
        Page::Daxfile => include_str!("../man/daxfile.8"),
        Page::Holds => include_str!("../man/daxfile-holds.7"),
        Page::Attacks => include_str!("../man/daxfile-attacks.7"),
        Page::Json => include_str!("../man/daxfile-json.5"),
    };
    if std::io::stdout().is_terminal()
        && let Ok(mut man) = Command::new("man").args(["-l", "-"]).stdin(Stdio::piped()).spawn()
    {
        // A reader who quits early needs no more.
        let _ = man.stdin.take().map(|mut stdin| stdin.write_all(source.as_bytes()));
        if man.wait().is_ok_and(|status| status.success()) {
            return Status::Done;
        }
    }
    print(source.as_bytes())
}

fn print(text: &[u8]) -> Status {
    let mut stdout = Output::new();
    let printed = stdout.write_all(text).and_then(|()| stdout.flush());
    printed.err().and_then(|error| report_print_error(&error)).unwrap_or_default()
}

/// The named files.
fn paths(files: &Files) -> Result<Vec<PathBuf>> {
    let mut paths = files.files.clone();
    if let Some(list) = &files.files_from {
        let mut names = Vec::new();
        if list == Path::new("-") {
            std::io::stdin().read_to_end(&mut names).call("read").context("standard input")?;
        } else {
            names = contents(list)?;
        }
        let end = if files.null { b'\0' } else { b'\n' };
        if !files.null && names.contains(&b'\0') {
            bail!("{}: has NUL bytes, which no name contains: use -0 if each name ends with one", quote(list));
        }
        let is_comment = |name: &[u8]| !files.null && name.starts_with(b"#");
        let names = names.split(|&byte| byte == end).filter(|name| !name.is_empty() && !is_comment(name));
        paths.extend(names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))));
    }
    if paths.is_empty() {
        bail!("no files named");
    }
    Ok(paths)
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).call("open").and_then(|mut file| file.read_to_end(&mut bytes).call("read"));
    read.with_context(|| daxfile::name::quote(path).into_owned())?;
    Ok(bytes)
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let name = daxfile::name::quote(path);
    let manifest = Manifest::parse(&contents(path)?).with_context(|| format!("{name}: not a manifest"))?;
    if manifest.entries().is_empty() {
        bail!("{name}: a manifest without files");
    }
    Ok(manifest)
}

/// Reports that standard output failed, unless the reader closed it: then it needs no more.
fn report_print_error(error: &std::io::Error) -> Option<Status> {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return None;
    }
    let _ = writeln!(std::io::stderr(), "daxfile: standard output: {error}");
    Some(Status::Failed)
}
