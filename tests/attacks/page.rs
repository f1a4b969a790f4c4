//! The table in man/daxfile-holds.7: kept, compared, and printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::run::Outcome;
use crate::table::{Access, Attack, FILESYSTEMS, Fs, HOLDS};

const BEGIN: &str = ".\\\" The attack suite writes what follows.\n";
const END: &str = ".\\\" The attack suite has written what precedes.\n";
const UPDATE: &str = "UPDATE_HOLDS";

/// What came of one attack through one access on one filesystem under one hold.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) outcome: Outcome,
    /// While the attacker had hold of the file, the pin was refused.
    pub(crate) busy: bool,
}

impl Cell {
    fn text(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Refused(errno) => errno,
            Outcome::Harmless => "same",
            Outcome::Shared => "shared",
            Outcome::Detected => "seen",
            Outcome::Unpinnable => "no pin",
            Outcome::Absent => NOT_THERE,
        };
        if self.busy && self.outcome != Outcome::Absent { format!("busy; {outcome}") } else { outcome.to_owned() }
    }
}

/// By operation and access, the cells: of each filesystem in turn, by hold. Empty is what was not tried.
type Rows = Vec<(String, Vec<String>)>;
type Row<'a> = (&'a str, &'a [String]);
type Kernel = (u32, u32);

const NOT_THERE: &str = "-";
const UNTRIED: &str = ", not tried: ";

/// What the page tells of each kernel.
pub(crate) struct Page {
    kernels: BTreeMap<Kernel, Rows>,
    kernel: Kernel,
    update: bool,
}

impl Page {
    pub(crate) fn read() -> Page {
        let text = std::fs::read_to_string(path()).expect("man/daxfile-holds.7");
        let (_, rest) = text.split_once(BEGIN).expect("the mark where the tables begin");
        let (tables, _) = rest.split_once(END).expect("the mark where the tables end");
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
        Page { kernels: parse(tables), kernel: version(&release), update: std::env::var_os(UPDATE).is_some() }
    }

    /// Fails unless the page, if it tells of this kernel and hold at all, has this cell.
    pub(crate) fn compare(&self, attack: &Attack, access: Access, fs: Fs, column: usize, cell: &Cell) {
        let Some(rows) = self.kernels.get(&self.kernel).filter(|_| !self.update) else { return };
        let column = columns(fs).start + column;
        if rows.iter().all(|(_, cells)| cells[column].is_empty()) {
            return;
        }
        let key = key(attack.title, access.title());
        let told = rows.iter().find(|row| row.0 == key).map_or(NOT_THERE, |row| &row.1[column]);
        assert!(told == cell.text(), "daxfile-holds(7) has {told:?}, not {cell:?}: {UPDATE}=1 rewrites it");
    }

    /// Fails if the page tells, of this kernel, of other attacks than these, or of some under a hold and not of others.
    pub(crate) fn has_only(&self, attacks: &[Attack]) {
        let Some(rows) = self.kernels.get(&self.kernel).filter(|_| !self.update) else { return };
        let lines =
            attacks.iter().flat_map(|attack| attack.lines.iter().map(|line| key(attack.title, line.access.title())));
        let keys: Vec<String> = lines.collect();
        let made: BTreeSet<&String> = keys.iter().collect();
        assert!(made.len() == keys.len(), "two rows of one name");
        let others: Vec<_> = rows.iter().map(|(key, _)| key).filter(|key| !made.contains(key)).collect();
        assert!(others.is_empty(), "daxfile-holds(7) has what is no attack, {others:?}: {UPDATE}=1 rewrites it");
        // A hold is told of in all its cells or in none.
        for column in 0..FILESYSTEMS.len() * HOLDS.len() {
            let (empty, full): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, cells)| cells[column].is_empty());
            let tried = full.iter().any(|(_, cells)| cells[column] != NOT_THERE);
            assert!(empty.is_empty() || !tried, "daxfile-holds(7) is incomplete: {empty:?}");
        }
    }

    /// The table of what was found, for people; the page is rewritten if that was asked for.
    pub(crate) fn conclude(&self, attacks: &[Attack], found: &BTreeMap<(usize, usize, usize), Cell>) -> String {
        let known = self.kernels.get(&self.kernel);
        let mut rows = Rows::new();
        let mut text = String::new();
        let columns = FILESYSTEMS.iter().flat_map(|fs| HOLDS.map(|hold| format!("{} {}", fs.name(), hold.name())));
        let columns: Vec<String> = columns.collect();
        let head = |text: &mut String, operation: &str, access: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:14}")).collect();
            let _ = writeln!(text, "{}", format!("{operation:46} {access:10}{cells}").trim_end());
        };
        head(&mut text, &format!("Linux {}.{}", self.kernel.0, self.kernel.1), "access", &columns);
        for (row, attack) in attacks.iter().enumerate() {
            for (line, through) in attack.lines.iter().enumerate() {
                let key = key(attack.title, through.access.title());
                let old = known.and_then(|rows| rows.iter().find(|row| row.0 == key));
                let is_absent = |column: usize| attack.not_on.iter().any(|no| no.0 as usize == column / HOLDS.len());
                let cell = |column| match (found.get(&(row, line, column)), old) {
                    (Some(cell), _) => cell.text(),
                    (None, _) if is_absent(column) => NOT_THERE.into(),
                    (None, old) => old.map_or_else(String::new, |(_, old)| old[column].clone()),
                };
                let cells: Vec<String> = (0..columns.len()).map(cell).collect();
                if (0..columns.len()).any(|column| found.contains_key(&(row, line, column))) {
                    head(&mut text, attack.title, through.access.title(), &cells);
                }
                rows.push((key, cells));
            }
        }
        if self.update {
            self.write(rows);
        }
        text
    }

    fn write(&self, rows: Rows) {
        let mut kernels = self.kernels.clone();
        for known in kernels.values_mut() {
            known.sort_by_key(|(key, _)| rows.iter().position(|row| row.0 == *key));
        }
        kernels.insert(self.kernel, rows);
        let text = std::fs::read_to_string(path()).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        std::fs::write(path(), format!("{before}{BEGIN}{}{END}{after}", tables(&kernels))).unwrap();
    }
}

/// A table for each filesystem of the newest kernel that was tried, and one of what differs on each other kernel.
fn tables(kernels: &BTreeMap<Kernel, Rows>) -> String {
    let mut text = String::new();
    for fs in FILESYSTEMS {
        let mut newest: Option<(Kernel, Vec<Row>)> = None;
        for (kernel, rows) in kernels.iter().rev() {
            // What no kernel has on this filesystem is not shown.
            let there = |key: &str| {
                let all = kernels.values().flatten().filter(|row| row.0 == key);
                all.flat_map(|(_, cells)| &cells[columns(fs)]).any(|cell| !["", NOT_THERE].contains(&cell.as_str()))
            };
            let mut rows: Vec<Row> = rows.iter().map(|(key, cells)| (key.as_str(), &cells[columns(fs)])).collect();
            rows.retain(|row| there(row.0));
            let tried = |column: usize| rows.iter().any(|(_, cells)| !cells[column].is_empty());
            let untried: Vec<_> = (0..HOLDS.len()).filter(|column| !tried(*column)).collect();
            let _ = write!(text, ".Ss {}, Linux {}.{}", fs.title(), kernel.0, kernel.1);
            if !untried.is_empty() {
                let holds: Vec<_> = untried.iter().map(|column| HOLDS[*column].name()).collect();
                let _ = write!(text, "{UNTRIED}{}", holds.join(" "));
            }
            text += "\n";
            if let Some((newest, known)) = &newest {
                let same = |row: &Row, other: &Row| {
                    row.0 == other.0 && (0..HOLDS.len()).all(|at| untried.contains(&at) || row.1[at] == other.1[at])
                };
                rows.retain(|row| !known.iter().any(|other| same(row, other)));
                let as_on = format!("as on Linux {}.{}", newest.0, newest.1);
                let _ = if rows.is_empty() {
                    writeln!(text, "All is {as_on}.")
                } else {
                    writeln!(text, "The rest is {as_on}.")
                };
            } else {
                newest = Some((*kernel, rows.clone()));
            }
            if rows.is_empty() {
                continue;
            }
            let _ = write!(
                text,
                ".Bl -column \"XFS_IOC_OPEN_BY_HANDLE, ftruncate\" \"write fd\" \"busy; SIGBUS\" \"EOPNOTSUPP\" \"shared\"\n\
                 .It Em Operation Ta Em Through Ta {}\n",
                HOLDS.map(|hold| format!("Em {}", hold.name())).join(" Ta ")
            );
            for (key, cells) in rows {
                let (operation, access) = key.split_once('\n').unwrap();
                let _ = writeln!(text, ".It \"{operation}\" Ta \"{access}\" Ta {}", quoted(cells));
            }
            text += ".El\n";
        }
    }
    text
}

/// What [`tables`] wrote.
fn parse(tables: &str) -> BTreeMap<Kernel, Rows> {
    let mut parts: Vec<(Fs, Kernel, &str, Rows)> = Vec::new();
    for line in tables.lines() {
        if let Some(head) = line.strip_prefix(".Ss ") {
            let (fs, rest) = head.split_once(", Linux ").expect("a filesystem and a kernel");
            let fs = FILESYSTEMS.into_iter().find(|known| known.title() == fs).expect("a filesystem");
            let (release, untried) = rest.split_once(UNTRIED).unwrap_or((rest, ""));
            parts.push((fs, version(release), untried, Rows::new()));
        } else if let Some(row) = line.strip_prefix(".It \"") {
            let mut cells = row.split(" Ta ").map(|cell| cell.trim_matches('"').to_owned());
            let key = key(&cells.next().unwrap(), &cells.next().unwrap());
            parts.last_mut().expect("a heading").3.push((key, cells.collect()));
        }
    }
    let keys: BTreeSet<String> = parts.iter().flat_map(|part| part.3.iter().map(|row| row.0.clone())).collect();
    let mut kernels: BTreeMap<Kernel, Rows> = BTreeMap::new();
    for (fs, kernel, untried, rows) in &parts {
        let newest = parts.iter().find(|part| part.0 == *fs).map_or(rows, |part| &part.3);
        let empty =
            || keys.iter().map(|key| (key.clone(), vec![String::new(); FILESYSTEMS.len() * HOLDS.len()])).collect();
        for (key, cells) in kernels.entry(*kernel).or_insert_with(empty) {
            let told = rows.iter().chain(newest).find(|row| row.0 == *key);
            for (at, hold) in HOLDS.iter().enumerate() {
                if untried.split(' ').all(|name| name != hold.name()) {
                    cells[columns(*fs).start + at] = told.map_or(NOT_THERE.to_owned(), |row| row.1[at].clone());
                }
            }
        }
    }
    kernels
}

/// Where the cells of a filesystem are.
fn columns(fs: Fs) -> Range<usize> {
    fs as usize * HOLDS.len()..(fs as usize + 1) * HOLDS.len()
}

fn quoted(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("\"{cell}\"")).collect::<Vec<_>>().join(" Ta ")
}

fn key(operation: &str, access: &str) -> String {
    format!("{operation}\n{access}")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/daxfile-holds.7")
}

/// `6.18.44-something` is 6.18.
fn version(release: &str) -> Kernel {
    let mut numbers = release.trim().split(['.', '-', ',']).map(|number| number.parse().expect("a number"));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
