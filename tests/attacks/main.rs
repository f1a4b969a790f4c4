//! Every way that is known to change a file's extent map, against pins.
//!
//! `table` declares the result of each attack, `run` runs it and finds where it landed, `page` keeps the tables in
//! daxfile-attacks(7) and their summary in daxfile-holds(7). `UPDATE_HOLDS=1` rewrites this kernel's results there;
//! otherwise a result that differs from daxfile-attacks(7) fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod page;
mod places;
mod run;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use daxfile_tests::trials::{arguments, guard, message};
use libtest_mimic::Trial;

use page::{Cell, Page};
use run::Outcome;
use table::{Attack, FILESYSTEMS, HOLDS, Hold, attacks};

const PLACES_COMPLETE: &str = "places/complete";

/// The results of the trials.
#[derive(Default)]
struct Found {
    cells: BTreeMap<(usize, usize, usize), Cell>,
    twins: usize,
    outside: usize,
    unseen: usize,
    not_there: Vec<String>,
}

fn main() -> ExitCode {
    let (mut arguments, names) = arguments();
    // Most of the time is spent waiting for a device.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    let attacks: &'static [Attack] = attacks().leak();
    let page = Arc::new(Page::read());
    let found = Arc::new(Mutex::new(Found::default()));
    let mut trials: Vec<Trial> =
        attacks.iter().enumerate().flat_map(|(row, attack)| trials(row, attack, &page, &found)).collect();
    let rows = Arc::clone(&page);
    trials.push(trial("page".to_owned(), move || rows.is_current(attacks)));
    trials.push(trial("writable".to_owned(), run::pins_writable));
    let slugs: BTreeSet<&str> = attacks.iter().map(|attack| attack.slug).collect();
    let known = slugs.clone();
    trials.push(trial("places".to_owned(), move || places::are_judged_once(&known)));
    trials.push(trial(PLACES_COMPLETE.to_owned(), move || places::are_complete(&slugs)));
    trials.retain(|trial| names.is_empty() || names.iter().any(|name| trial.name().contains(name)));
    let writable = |trial: &Trial| trial.name().split('/').any(|part| part == Hold::Writable.name());
    if !arguments.list
        && trials.iter().any(writable)
        && let Err(lack) = guard()
    {
        println!("test attacks/writable ... ignored, on this machine: {lack}: tests/lab.sh KERNEL attacks");
        trials.retain(|trial| !writable(trial));
    }
    let complete = format!("attacks/{PLACES_COMPLETE}");
    if !arguments.list && !arguments.include_ignored && trials.iter().any(|trial| trial.name() == complete) {
        println!("test {complete} ... ignored, fetches the source of three kernels: tests/run.sh --full");
        trials.retain(|trial| trial.name() != complete);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let found = found.lock().unwrap();
    if arguments.list {
        return conclusion.exit_code();
    }
    let text = page.conclude(attacks, &found.cells);
    if found.cells.len() + found.outside + found.twins == 0 {
        return conclusion.exit_code();
    }
    println!("{text}");
    for line in &found.not_there {
        println!("skipped: {line}");
    }
    let landed = |outcome: fn(&Outcome) -> bool| found.cells.values().filter(|cell| outcome(&cell.outcome)).count();
    println!(
        "{} attacks on pins by {} operations: {} refused, {} harmless, {} detected, {} not there; \
         {} unpinned twins changed; {} outside their declaration, {} maps changed unseen",
        found.cells.len() + found.outside,
        found.cells.keys().map(|key| key.0).collect::<BTreeSet<_>>().len(),
        landed(|outcome| matches!(outcome, Outcome::Refused(_))),
        landed(|outcome| matches!(outcome, Outcome::Harmless | Outcome::Shared)),
        landed(|outcome| *outcome == Outcome::Detected),
        landed(|outcome| *outcome == Outcome::Absent),
        found.twins,
        found.outside,
        found.unseen,
    );
    conclusion.exit_code()
}

/// Extents are not swapped while any file is held writable.
fn turn(attack: &Attack, hold: Hold) -> (Option<RwLockReadGuard<'static, ()>>, Option<RwLockWriteGuard<'static, ()>>) {
    static GUARD: RwLock<()> = RwLock::new(());
    let guarded = (hold == Hold::Writable).then(|| GUARD.read().unwrap_or_else(PoisonError::into_inner));
    let alone = attack.swaps && hold != Hold::Writable;
    (guarded, alone.then(|| GUARD.write().unwrap_or_else(PoisonError::into_inner)))
}

fn trials(row: usize, attack: &'static Attack, page: &Arc<Page>, found: &Arc<Mutex<Found>>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for fs in FILESYSTEMS {
        if let Some((_, errno, why)) = attack.not_on.iter().find(|(other, ..)| *other == fs) {
            let found = Arc::clone(found);
            let access = attack.lines[0].access;
            trials.push(trial(format!("{}/not-there/{}", attack.slug, fs.name()), move || {
                run::is_absent(attack, access, fs, errno);
                found.lock().unwrap().not_there.push(format!("{} on {}: {why}", attack.title, fs.name()));
            }));
            continue;
        }
        for (line, through) in attack.lines.iter().enumerate() {
            let name = |hold: &str| format!("{}/{}/{hold}/{}", attack.slug, through.access.slug(), fs.name());
            let twins = Arc::clone(found);
            trials.push(trial(name("unpinned"), move || {
                let _turn = turn(attack, Hold::None);
                let outcome = run::on_twin(attack, through.access, fs);
                let mut found = twins.lock().unwrap();
                match outcome {
                    Outcome::Absent => found.not_there.push(attack.lacking(fs)),
                    _ => found.twins += 1,
                }
            }));
            for (column, hold) in HOLDS.into_iter().enumerate() {
                let expected = attack.expected(through, fs, hold);
                let (page, found) = (Arc::clone(page), Arc::clone(found));
                trials.push(trial(name(hold.name()), move || {
                    let _turn = turn(attack, hold);
                    let ran = catch_unwind(AssertUnwindSafe(|| {
                        let outcome = run::on_pinned(attack, through.access, fs, hold, expected);
                        let cell = Cell { outcome, busy: through.access.is_busy(hold) };
                        page.compare(attack, through.access, fs, column, &cell);
                        cell
                    }));
                    let mut found = found.lock().unwrap();
                    match ran {
                        Ok(cell) => drop(found.cells.insert((row, line, fs as usize * HOLDS.len() + column), cell)),
                        Err(panic) => {
                            found.outside += 1;
                            found.unseen += usize::from(message(&*panic).starts_with(run::UNSEEN));
                            drop(found);
                            std::panic::resume_unwind(panic);
                        }
                    }
                }));
            }
        }
    }
    trials
}

fn trial(name: String, run: impl FnOnce() + Send + 'static) -> Trial {
    daxfile_tests::trials::trial(format!("attacks/{name}"), run)
}
