//! The table "Programs on pinned files" in daxfile-holds(7): read, compared, written.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use daxfile_tests::pages::{Kernel, Written, escaped, release, running_kernel, version};

use crate::table::{Expected, HOLDS, PROGRAMS, Program};
use crate::{Did, FILESYSTEMS};

const TABLE: Written = Written {
    page: "daxfile-holds.7",
    begin: ".\\\" The program suite writes what follows.\n",
    end: ".\\\" The program suite has written what precedes.\n",
};
const UPDATE: &str = "UPDATE_HOLDS";

const COLUMNS: usize = FILESYSTEMS.len() * HOLDS.len();
/// A line fits a terminal of 80 columns, with the five columns by which manual pages indent text, and one to spare.
const WIDTH: usize = 74;
const TITLE: usize = 21;
const CELL: usize = 9;
const NOT_TRIED: &str = "-";
const SAME: &str = "All other results are those of Linux ";
const TOTAL: &str = "MiB written and";

/// The results on one kernel: by title, a cell for each column. How many MiB were written, and compared.
#[derive(Clone, Debug, Default, PartialEq)]
struct Results {
    rows: BTreeMap<String, Vec<String>>,
    mebibytes: (u64, u64),
}

/// The results in the page.
pub(crate) struct Page {
    kernels: BTreeMap<Kernel, Results>,
    kernel: Kernel,
    update: bool,
}

/// The column of a filesystem and a hold.
pub(crate) fn column(fs: usize, hold: usize) -> usize {
    fs * HOLDS.len() + hold
}

impl Page {
    pub(crate) fn read() -> Page {
        Page { kernels: parse(&TABLE.read()), kernel: running_kernel(), update: std::env::var_os(UPDATE).is_some() }
    }

    /// Fails unless the page, if it has a result of this kernel, has this one.
    pub(crate) fn compare(&self, program: &Program, fs: usize, hold: usize, text: &str) {
        let Some(results) = self.kernels.get(&self.kernel).filter(|_| !self.update) else { return };
        let told = results.rows.get(program.title).map(|cells| &cells[column(fs, hold)]);
        if let Some(told) = told.filter(|told| *told != NOT_TRIED) {
            assert!(told == text, "daxfile-holds(7) has {told:?}, not {text:?}: {UPDATE}=1 rewrites it");
        }
    }

    /// Fails if the table is not as it would be written.
    pub(crate) fn is_current(&self) {
        let written = TABLE.read();
        let generated = text(&self.kernels);
        let differing = written.lines().zip(generated.lines()).find(|(written, generated)| written != generated);
        assert!(
            self.update || written == generated,
            "daxfile-holds(7) is not as it would be written, {differing:?}: {UPDATE}=1 tests/lab.sh newest programs"
        );
    }

    /// Prints the results. Rewrites the table on request, with these results if this kernel has every hold.
    pub(crate) fn conclude(&self, found: &BTreeMap<(usize, usize), Did>, has_all_holds: bool) {
        let mut kernels = self.kernels.clone();
        if !found.is_empty() {
            let results = kernels.entry(self.kernel).or_default();
            for ((program, column), did) in found {
                let cells = results.rows.entry(PROGRAMS[*program].title.to_owned());
                cells.or_insert_with(|| vec![NOT_TRIED.to_owned(); COLUMNS])[*column] = did.text.to_owned();
            }
            let sum = |bytes: fn(&Did) -> u64| found.values().map(bytes).sum::<u64>() >> 20;
            let mebibytes = (sum(|did| did.wrote), sum(|did| did.verified));
            if found.len() == PROGRAMS.len() * COLUMNS {
                results.mebibytes = mebibytes;
            }
            let said = format!("{}{}", table(self.kernel, results, None), total(self.kernel, mebibytes));
            println!("{}", said.replace("\\-", "-"));
        }
        if self.update {
            TABLE.write(&text(if has_all_holds { &kernels } else { &self.kernels }));
        }
    }
}

/// The rows of a kernel; if a newer one is in the page, those that differ from it.
fn table(kernel: Kernel, results: &Results, newer: Option<&Results>) -> String {
    let line = |title: &str, cells: &[&str]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:0$}", CELL - 1)).collect();
        format!("{}\n", escaped(format!("{title:TITLE$}{cells}").trim_end()))
    };
    let names: Vec<&str> = FILESYSTEMS.iter().flat_map(|(_, name, _)| [name, "", ""]).collect();
    let holds: Vec<&str> = FILESYSTEMS.iter().flat_map(|_| HOLDS).collect();
    let mut rows = String::new();
    for program in PROGRAMS {
        let Some(cells) = results.rows.get(program.title) else { continue };
        if newer.is_none_or(|newer| newer.rows.get(program.title) != Some(cells)) {
            rows += &line(program.title, &cells.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    format!("{}{}{rows}", line(&format!("Linux {}", release(kernel)), &names), line("", &holds))
}

fn total(kernel: Kernel, (wrote, verified): (u64, u64)) -> String {
    format!("On Linux {}: {wrote} {TOTAL} {verified} MiB read back and compared.\n", release(kernel))
}

fn text(kernels: &BTreeMap<Kernel, Results>) -> String {
    let mut text = String::new();
    let mut newest: Option<(Kernel, &Results)> = None;
    for (kernel, results) in kernels.iter().rev() {
        let _ = write!(text, ".Bd -literal\n{}.Ed\n.Pp\n", table(*kernel, results, newest.map(|newest| newest.1)));
        if let Some((newest, _)) = newest {
            let _ = writeln!(text, "{SAME}{}.", release(newest));
        }
        text += &total(*kernel, results.mebibytes);
        newest = newest.or(Some((*kernel, results)));
    }
    text += ".Pp\nThe messages of the programs that fail:\n.Bd -literal\n";
    for (at, hold) in HOLDS.iter().enumerate() {
        let mut titles: Vec<(&str, Vec<&str>)> = Vec::new();
        for program in PROGRAMS {
            if let Expected::Fails(message) = program.expected[at] {
                match titles.iter_mut().find(|(known, _)| *known == message) {
                    Some((_, programs)) => programs.push(program.title.trim()),
                    None => titles.push((message, vec![program.title.trim()])),
                }
            }
        }
        // One message is almost everyone's.
        titles.sort_by_key(|(_, programs)| std::cmp::Reverse(programs.len()));
        for (number, (message, programs)) in titles.iter().enumerate() {
            let mut line = format!("{hold:8}  {message:24} ");
            let indent = line.len();
            let others = number == 0 && programs.len() > PROGRAMS.len() / 2;
            let named = if others { vec!["the others"] } else { programs.clone() };
            for (at, program) in named.iter().enumerate() {
                let separator = if at == 0 { "" } else { "; " };
                if line.len() + separator.len() + program.len() > WIDTH {
                    let _ = writeln!(text, "{};", escaped(&line));
                    line = format!("{:indent$}{program}", "");
                } else {
                    line += &format!("{separator}{program}");
                }
            }
            let _ = writeln!(text, "{}", escaped(&line));
        }
    }
    text + ".Ed\n"
}

/// Reads the output of [`text`].
fn parse(text: &str) -> BTreeMap<Kernel, Results> {
    let mut kernels: BTreeMap<Kernel, Results> = BTreeMap::new();
    let mut newest: Option<Results> = None;
    let (mut kernel, mut rows) = ((0, 0), BTreeMap::new());
    for line in text.replace("\\-", "-").lines() {
        if let Some(rest) = line.strip_prefix("Linux ") {
            kernel = version(rest.split(' ').next().unwrap_or_default());
            rows = newest.as_ref().map(|newest| newest.rows.clone()).unwrap_or_default();
        } else if line.contains(TOTAL) {
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [wrote, verified] = numbers[..] else { panic!("{line}: not two numbers") };
            let results = Results { rows: std::mem::take(&mut rows), mebibytes: (wrote, verified) };
            newest.get_or_insert(results.clone());
            kernels.insert(kernel, results);
        } else if let Some(title) = line.get(..TITLE).map(str::trim_end)
            && PROGRAMS.iter().any(|program| program.title == title)
        {
            rows.insert(title.to_owned(), line[TITLE..].split_whitespace().map(str::to_owned).collect());
        }
    }
    kernels
}
