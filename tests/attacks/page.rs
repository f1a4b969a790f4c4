//! The results for each kernel in daxfile-attacks(7), and their summary in daxfile-holds(7): read, compared, written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use daxfile_tests::pages::{Kernel, Written, escaped, release, running_kernel, version};

use crate::run::Outcome;
use crate::table::{Access, Attack, FILESYSTEMS, Fs, GROUPS, Group, HOLDS, Hold};

const TABLES: Written = part_of("daxfile-attacks.7");
const SUMMARY: Written = part_of("daxfile-holds.7");
const UPDATE: &str = "UPDATE_HOLDS";

/// A line of a table fits a terminal of 80 columns, with the five columns by which manual pages indent text.
const WIDTH: usize = 75;
const GAP: usize = 2;
const OPERATION: &str = "Operation";
const THROUGH: &str = "Through";

/// The result of one attack through one access on one filesystem under one hold.
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
            Outcome::Harmless => SAME,
            Outcome::Shared => SHARED,
            Outcome::Detected => SEEN,
            Outcome::Unpinnable => NO_PIN,
            Outcome::Absent => NOT_THERE,
        };
        if self.busy && self.outcome != Outcome::Absent { format!("{BUSY}{outcome}") } else { outcome.to_owned() }
    }
}

/// By operation and access, the cells: filesystem by filesystem, then by hold. An empty cell was not tried.
type Rows = Vec<(String, Vec<String>)>;
type Row<'a> = (&'a str, &'a [String]);
type Kernels = BTreeMap<Kernel, Rows>;
/// The results of the trials: by attack, line and column.
type Found = BTreeMap<(usize, usize, usize), Cell>;

const SAME: &str = "same";
const SHARED: &str = "shared";
const SEEN: &str = "seen";
const NO_PIN: &str = "no pin";
const REFUSED: &str = "refused";
const NOT_THERE: &str = "-";
const BUSY: &str = "busy; ";
const UNTRIED: &str = ", not tried: ";

/// The results for each kernel in the pages.
pub(crate) struct Page {
    kernels: Kernels,
    kernel: Kernel,
    update: bool,
}

impl Page {
    pub(crate) fn read() -> Page {
        let kernels = parse(&TABLES.read());
        Page { kernels, kernel: running_kernel(), update: std::env::var_os(UPDATE).is_some() }
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
        assert!(told == cell.text(), "daxfile-attacks(7) has {told:?}, not {cell:?}: {UPDATE}=1 rewrites it");
    }

    /// Fails if the pages tell, of this kernel, of other attacks than these, or of some under a hold and not of others;
    /// or if they are not as they would be written.
    pub(crate) fn is_current(&self, attacks: &[Attack]) {
        if self.update {
            return;
        }
        let lines =
            attacks.iter().flat_map(|attack| attack.lines.iter().map(|line| key(attack.title, line.access.title())));
        let keys: Vec<String> = lines.collect();
        let made: BTreeSet<&String> = keys.iter().collect();
        assert!(made.len() == keys.len(), "two rows of one name");
        if let Some(rows) = self.kernels.get(&self.kernel) {
            let others: Vec<_> = rows.iter().map(|(key, _)| key).filter(|key| !made.contains(key)).collect();
            assert!(
                others.is_empty(),
                "daxfile-attacks(7) has rows without an attack, {others:?}: {UPDATE}=1 rewrites it"
            );
            // A hold has either all its cells or none.
            for column in 0..FILESYSTEMS.len() * HOLDS.len() {
                let (empty, full): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, cells)| cells[column].is_empty());
                let tried = full.iter().any(|(_, cells)| cells[column] != NOT_THERE);
                assert!(empty.is_empty() || !tried, "daxfile-attacks(7) is incomplete: {empty:?}");
            }
        }
        let kernels = self.arranged(attacks, &Found::new());
        for (part, generated) in [(TABLES, tables(&kernels, attacks)), (SUMMARY, summary(&kernels, attacks))] {
            let written = part.read();
            let differing = written.lines().zip(generated.lines()).find(|(written, generated)| written != generated);
            assert!(
                written == generated,
                "{} is not as it would be written, {differing:?}: {UPDATE}=1 rewrites it",
                part.page
            );
        }
    }

    /// Returns the table of results, for people; rewrites the pages on request.
    pub(crate) fn conclude(&self, attacks: &[Attack], found: &Found) -> String {
        let kernels = self.arranged(attacks, found);
        if self.update {
            TABLES.write(&tables(&kernels, attacks));
            SUMMARY.write(&summary(&kernels, attacks));
        }
        let mut text = String::new();
        let columns = FILESYSTEMS.iter().flat_map(|fs| HOLDS.map(|hold| format!("{} {}", fs.name(), hold.name())));
        let columns: Vec<String> = columns.collect();
        let head = |text: &mut String, operation: &str, access: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:14}")).collect();
            let _ = writeln!(text, "{}", format!("{operation:46} {access:10}{cells}").trim_end());
        };
        head(&mut text, &format!("Linux {}.{}", self.kernel.0, self.kernel.1), "access", &columns);
        let Some(rows) = kernels.get(&self.kernel) else { return text };
        for (row, attack) in attacks.iter().enumerate() {
            for (line, through) in attack.lines.iter().enumerate() {
                let key = key(attack.title, through.access.title());
                let cells = &rows.iter().find(|row| row.0 == key).expect("each attack has its rows").1;
                if (0..columns.len()).any(|column| found.contains_key(&(row, line, column))) {
                    head(&mut text, attack.title, through.access.title(), cells);
                }
            }
        }
        text
    }

    /// For each kernel, a row for each attack, with this run's results for this kernel.
    fn arranged(&self, attacks: &[Attack], found: &Found) -> Kernels {
        let told = self.kernels.keys().copied();
        let kernels: BTreeSet<Kernel> = told.chain((!found.is_empty()).then_some(self.kernel)).collect();
        let rows = |kernel: Kernel| {
            let known = self.kernels.get(&kernel);
            let mut rows = Rows::new();
            for (row, attack) in attacks.iter().enumerate() {
                for (line, through) in attack.lines.iter().enumerate() {
                    let key = key(attack.title, through.access.title());
                    let old = known.and_then(|rows| rows.iter().find(|row| row.0 == key));
                    let is_absent =
                        |column: usize| attack.not_on.iter().any(|no| no.0 as usize == column / HOLDS.len());
                    let cell = |column| match (found.get(&(row, line, column)).filter(|_| kernel == self.kernel), old) {
                        (Some(cell), _) => cell.text(),
                        (None, _) if is_absent(column) => NOT_THERE.into(),
                        (None, old) => old.map_or_else(String::new, |(_, old)| old[column].clone()),
                    };
                    rows.push((key, (0..FILESYSTEMS.len() * HOLDS.len()).map(cell).collect()));
                }
            }
            (kernel, rows)
        };
        kernels.into_iter().map(rows).collect()
    }
}

/// A table for each filesystem of the newest kernel that was tried, and one of the differences on each other kernel.
fn tables(kernels: &Kernels, attacks: &[Attack]) -> String {
    let layout = Layout::of(kernels);
    let mut text = String::new();
    for fs in FILESYSTEMS {
        let mut newest: Option<(Kernel, Vec<Row>)> = None;
        for (kernel, rows) in kernels.iter().rev() {
            // Attacks that no kernel has on this filesystem are not shown.
            let there = |key: &str| {
                let all = kernels.values().flatten().filter(|row| row.0 == key);
                all.flat_map(|(_, cells)| &cells[columns(fs)]).any(|cell| is_result(cell))
            };
            let mut rows: Vec<Row> = rows.iter().map(|(key, cells)| (key.as_str(), &cells[columns(fs)])).collect();
            rows.retain(|row| there(row.0));
            let untried = untried(&rows);
            let _ = write!(text, ".Ss {}, Linux {}", fs.title(), release(*kernel));
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
                let what = if rows.is_empty() { "All results are" } else { "All other results are" };
                let _ = writeln!(text, "{what} those of Linux {}.", release(*newest));
            } else {
                newest = Some((*kernel, rows.clone()));
            }
            if !rows.is_empty() {
                let _ = write!(text, ".Bd -literal\n{}", layout.line(OPERATION, THROUGH, &HOLDS.map(Hold::name)));
                for group in GROUPS {
                    let of_group = |row: &&Row| {
                        attacks.iter().any(|attack| attack.group() == group && operation(row.0) == attack.title)
                    };
                    let rows: Vec<&Row> = rows.iter().filter(of_group).collect();
                    layout.group(&mut text, group, &rows);
                }
                text += ".Ed\n";
            }
        }
    }
    text
}

/// How wide the columns of the tables are.
struct Layout {
    operation: usize,
    others: Vec<usize>,
}

impl Layout {
    fn of(kernels: &Kernels) -> Layout {
        let mut others = vec![THROUGH.len()];
        others.extend(HOLDS.map(|hold| hold.name().len()));
        for (key, cells) in kernels.values().flatten() {
            others[0] = others[0].max(key.len() - operation(key).len() - 1);
            for (at, cell) in cells.iter().enumerate() {
                let width = &mut others[1 + at % HOLDS.len()];
                *width = cell.len().max(*width);
            }
        }
        let operation = WIDTH - others.iter().map(|width| width + GAP).sum::<usize>();
        Layout { operation, others }
    }

    fn line(&self, operation: &str, access: &str, cells: &[&str]) -> String {
        let mut line = format!("{operation:0$}", self.operation);
        for (cell, &width) in [access].iter().chain(cells).zip(&self.others) {
            let _ = write!(line, "{:GAP$}{cell:width$}", "");
        }
        format!("{}\n", escaped(line.trim_end()))
    }

    fn group(&self, text: &mut String, group: Group, rows: &[&Row]) {
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(text, ".Sy {}", escaped(group.title()));
        let mut above = "";
        for (key, cells) in rows {
            let (operation, access) = key.split_once('\n').unwrap();
            let mut shown = if operation == above { "" } else { operation };
            if shown.len() > self.operation {
                // It has a line of its own.
                let _ = writeln!(text, "{}", escaped(shown));
                shown = "";
            }
            *text += &self.line(shown, access, &cells.iter().map(String::as_str).collect::<Vec<_>>());
            above = operation;
        }
    }
}

/// Reads the output of [`tables`].
fn parse(tables: &str) -> Kernels {
    let mut parts: Vec<(Fs, Kernel, &str, Rows)> = Vec::new();
    // Where the columns begin, within a table.
    let mut starts: Vec<usize> = Vec::new();
    let mut title = String::new();
    for line in tables.lines() {
        if let Some(head) = line.strip_prefix(".Ss ") {
            let (fs, rest) = head.split_once(", Linux ").expect("a filesystem and a kernel");
            let fs = FILESYSTEMS.into_iter().find(|known| known.title() == fs).expect("a filesystem");
            let (release, untried) = rest.split_once(UNTRIED).unwrap_or((rest, ""));
            parts.push((fs, version(release), untried, Rows::new()));
            starts.clear();
        } else if line.starts_with(OPERATION) {
            let names = [THROUGH].into_iter().chain(HOLDS.map(Hold::name));
            starts = names.map(|name| line.find(name).expect("a column")).collect();
        } else if !starts.is_empty() && !line.starts_with('.') {
            let line = line.replace("\\-", "-");
            let field = |at: usize| {
                let end = starts.get(at + 1).map_or(line.len(), |end| line.len().min(*end));
                line.get(starts[at]..end).unwrap_or("").trim().to_owned()
            };
            let access = field(0);
            if !Access::ALL.iter().any(|known| known.title() == access) {
                title = line;
                continue;
            }
            let operation = line[..starts[0]].trim();
            if !operation.is_empty() {
                title = operation.to_owned();
            }
            let cells = (0..HOLDS.len()).map(|column| field(1 + column)).collect();
            parts.last_mut().expect("a heading").3.push((key(&title, &access), cells));
        }
    }
    let keys: BTreeSet<String> = parts.iter().flat_map(|part| part.3.iter().map(|row| row.0.clone())).collect();
    let mut kernels = Kernels::new();
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

/// The worst results of the attacks of each group on the newest kernel, and the other kernels where they are the same.
fn summary(kernels: &Kernels, attacks: &[Attack]) -> String {
    let Some((newest, rows)) = kernels.last_key_value() else { return String::new() };
    let widths = HOLDS.map(|hold| hold.name().len().max(REFUSED.len() + 1));
    let wide = FILESYSTEMS.len() * widths.iter().map(|width| width + 1).sum::<usize>();
    let line = |title: &str, cells: Vec<&str>| {
        let mut line = format!("{title:0$}", WIDTH - wide);
        for (cell, &width) in cells.iter().zip(widths.iter().cycle()) {
            let _ = write!(line, " {cell:width$}");
        }
        format!("{}\n", escaped(line.trim_end()))
    };
    let mut text = ".Bd -literal\n".to_owned();
    let of_each = |fs: Fs| HOLDS.iter().enumerate().map(move |(at, _)| if at == 0 { fs.title() } else { "" });
    text += &line(&format!("Linux {}", release(*newest)), FILESYSTEMS.into_iter().flat_map(of_each).collect());
    text += &line("", FILESYSTEMS.iter().flat_map(|_| HOLDS.map(Hold::name)).collect());
    for group in GROUPS {
        let cells = worst(rows, attacks, group);
        if cells.iter().any(|cell| is_result(cell)) {
            text += &line(group.title(), cells.iter().map(String::as_str).collect());
        }
    }
    text += ".Ed\n.Pp\n";
    let mut same = Vec::new();
    let mut notes = String::new();
    for (kernel, others) in kernels.iter().rev().skip(1) {
        // Attacks that one of them does not have make no difference.
        let within = |cells: &[String], limits: &[String]| {
            let cells = cells.iter().zip(limits);
            cells.map(|(cell, limit)| if is_result(limit) { cell } else { NOT_THERE }.to_owned()).collect()
        };
        let pairs = rows.iter().zip(others);
        let (here, there): (Rows, Rows) = pairs
            .map(|((key, here), (_, there))| ((key.clone(), within(here, there)), (key.clone(), within(there, here))))
            .unzip();
        let differs = |group: &Group| worst(&here, attacks, *group) != worst(&there, attacks, *group);
        let differing: Vec<_> = GROUPS.into_iter().filter(differs).map(|group| escaped(group.title())).collect();
        let release = release(*kernel);
        if differing.is_empty() {
            same.push(release.clone());
        } else {
            let _ = writeln!(notes, "Linux {release} differs in\n.Dq {} .", differing.join(" ,\n.Dq "));
        }
        let rows: Vec<Row> = others.iter().map(|(key, cells)| (key.as_str(), cells.as_slice())).collect();
        for column in untried(&rows).into_iter().filter(|column| *column < HOLDS.len()) {
            let _ = writeln!(notes, "Hold {} was not tried on Linux {release}.", HOLDS[column].name());
        }
    }
    if !same.is_empty() {
        let give = if same.len() == 1 {
            "gives the same results for the operations that it has"
        } else {
            "give the same results for the operations that they have"
        };
        let _ = writeln!(text, "Linux {} {give}.", same.join(", "));
    }
    text + &notes
}

/// By column, the worst result of a group's attacks, through accesses that do not prevent such a pin; it has a star if
/// there are other results.
fn worst(rows: &Rows, attacks: &[Attack], group: Group) -> Vec<String> {
    const WORSE: [&str; 5] = [NO_PIN, REFUSED, SAME, SHARED, SEEN];
    let of_group = |key: &str| attacks.iter().any(|attack| attack.group() == group && operation(key) == attack.title);
    let rows: Vec<_> = rows.iter().filter(|(key, _)| of_group(key)).collect();
    let column = |column: usize| {
        let cells = rows.iter().map(|(_, cells)| cells[column].as_str());
        let cells = cells.filter(|cell| is_result(cell) && !cell.starts_with(BUSY));
        let ranks = cells.map(|cell| WORSE.iter().position(|known| *known == cell).unwrap_or(1));
        let ranks: BTreeSet<usize> = ranks.collect();
        let star = if ranks.len() > 1 { "*" } else { "" };
        ranks.last().map_or(NOT_THERE.to_owned(), |worst| format!("{}{star}", WORSE[*worst]))
    };
    (0..FILESYSTEMS.len() * HOLDS.len()).map(column).collect()
}

/// The columns that no result is in.
fn untried(rows: &[Row]) -> Vec<usize> {
    let columns = rows.first().map_or(0, |row| row.1.len());
    (0..columns).filter(|column| rows.iter().all(|(_, cells)| !is_result(&cells[*column]))).collect()
}

fn is_result(cell: &str) -> bool {
    !["", NOT_THERE].contains(&cell)
}

/// Where the cells of a filesystem are.
fn columns(fs: Fs) -> Range<usize> {
    fs as usize * HOLDS.len()..(fs as usize + 1) * HOLDS.len()
}

fn key(operation: &str, access: &str) -> String {
    format!("{operation}\n{access}")
}

fn operation(key: &str) -> &str {
    key.split('\n').next().unwrap_or(key)
}

const fn part_of(page: &'static str) -> Written {
    Written {
        page,
        begin: ".\\\" The attack suite writes what follows.\n",
        end: ".\\\" The attack suite has written what precedes.\n",
    }
}
