//! `daxfile`: parse, run, exit.
#![forbid(unsafe_code)]

mod cli;
mod render;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use daxfile::error::Named;
use daxfile::pin::manifest::Manifest;
use daxfile::report::Sink;
use daxfile::status::Status;
use daxfile::verbs::{alloc, check, map, pin, prepare, probe, stat, unpin, verify};

use cli::{Cli, Files, Verb};
use render::Printer;
use render::progress::Meter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return usage(&message),
    };
    let meter = Meter::new(!cli.common.quiet);
    let mut printer = Printer::new(&cli);
    let mut print = |file| {
        meter.aside(|| printer.print(&file));
        if printer.closed() {
            meter.stop();
        }
    };
    match run(&cli, &meter, &mut print) {
        Ok(status) => {
            let printed = printer.finish(status);
            if let Some(signal) = meter.signal() {
                // Undone and tidied up; now die of the signal, as whoever sent it expects.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            let unprinted = printed.err().and_then(|error| unprinted(&error)).unwrap_or_default();
            ExitCode::from(status.max(unprinted) as u8)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "daxfile {}: {error:#}", cli.verb.name());
            let status = error.downcast_ref::<daxfile::error::Error>().map_or(Status::Failed, |error| error.status);
            ExitCode::from(status as u8)
        }
    }
}

fn run(cli: &Cli, meter: &Meter, sink: &mut Sink<'_>) -> Result<Status> {
    Ok(match &cli.verb {
        Verb::Alloc { size, shape, dry_run, file } => {
            let needs = daxfile::needs::Needs {
                align: shape.align,
                max_extents: shape.max_extents,
                ..daxfile::needs::Needs::default()
            };
            alloc::run(file, &alloc::Options { size: *size, needs, dry_run: *dry_run }, meter, sink)
        }
        Verb::Check { needs, files } => check::run(&list(files)?, &needs.needs()?, meter, sink),
        Verb::Completions { shell } => completions(*shell),
        Verb::Map { format, unpinned, file } => map::run(file, format.0, *unpinned, meter, sink),
        Verb::Pin { needs, wait, as_recorded, dry_run, files } => {
            let options = pin::Options {
                needs: needs.needs()?,
                as_recorded: *as_recorded,
                wait: Duration::from_secs(*wait),
                dry_run: *dry_run,
            };
            let files = list(files)?;
            meter.catch_signals().context("sigaction")?;
            pin::run(&files, &options, meter, sink)
        }
        Verb::Prepare { needs, dry_run, files } => {
            let files = list(files)?;
            meter.catch_signals().context("sigaction")?;
            prepare::run(&files, &needs.needs()?, *dry_run, meter, sink)
        }
        Verb::Probe { hold, path } => probe::run(path, hold.map(|hold| hold.0), sink),
        Verb::Unpin { dry_run, files } => {
            let files = list(files)?;
            meter.catch_signals().context("sigaction")?;
            unpin::run(&files, *dry_run, meter, sink)
        }
        Verb::Stat { extents, files } => stat::run(&list(files)?, *extents, meter, sink),
        Verb::Verify { against: Some(manifest), root, files, .. } => {
            let manifest = read_manifest(manifest)?;
            let files = if files.files.is_empty() && files.files_from.is_none() { Vec::new() } else { list(files)? };
            verify::run_against(&manifest, &files, root.as_deref(), meter, sink)
        }
        Verb::Verify { strict, files, .. } => verify::run(&list(files)?, *strict, meter, sink),
    })
}

/// Prints help, version, or what is wrong with the command line.
fn usage(message: &clap::Error) -> ExitCode {
    let printed = message.print().and_then(|()| std::io::stdout().flush());
    let failed = printed.err().filter(|_| !message.use_stderr()).and_then(|error| unprinted(&error));
    failed.map_or(ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2)), |status| ExitCode::from(status as u8))
}

fn completions(shell: Shell) -> Status {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "daxfile", &mut script);
    let mut stdout = std::io::stdout();
    let printed = stdout.write_all(&script).and_then(|()| stdout.flush());
    printed.err().and_then(|error| unprinted(&error)).unwrap_or_default()
}

/// The files that were named.
fn list(files: &Files) -> Result<Vec<PathBuf>> {
    let mut paths = files.files.clone();
    if let Some(list) = &files.files_from {
        let mut names = Vec::new();
        if list == Path::new("-") {
            std::io::stdin().read_to_end(&mut names).named("read").context("standard input")?;
        } else {
            names = contents(list)?;
        }
        let end = if files.null { b'\0' } else { b'\n' };
        let names = names.split(|&byte| byte == end).filter(|name| !name.is_empty());
        paths.extend(names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))));
    }
    if paths.is_empty() {
        bail!("no files named");
    }
    Ok(paths)
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).named("open").and_then(|mut file| file.read_to_end(&mut bytes).named("read"));
    read.with_context(|| daxfile::name::quote(path).into_owned())?;
    Ok(bytes)
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let name = daxfile::name::quote(path);
    let manifest = Manifest::parse(&contents(path)?)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{name}: not a manifest"))?;
    if manifest.entries().is_empty() {
        bail!("{name}: a manifest without files");
    }
    Ok(manifest)
}

/// Says that standard output failed; not to who closed it, and has seen enough.
fn unprinted(error: &std::io::Error) -> Option<Status> {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return None;
    }
    let _ = writeln!(std::io::stderr(), "daxfile: standard output: {error}");
    Some(Status::Failed)
}
