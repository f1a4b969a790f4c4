//! The table in man/daxfile-holds.7: kept, compared, and printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
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
            Outcome::Absent => "-",
        };
        if self.busy && self.outcome != Outcome::Absent { format!("busy; {outcome}") } else { outcome.to_owned() }
    }
}

type Rows = Vec<(String, Vec<String>)>;

/// The page's tables, by kernel.
pub(crate) struct Page {
    kernels: BTreeMap<(u32, u32), Rows>,
    kernel: (u32, u32),
    update: bool,
}

impl Page {
    pub(crate) fn read() -> Page {
        let text = std::fs::read_to_string(path()).expect("man/daxfile-holds.7");
        let (_, rest) = text.split_once(BEGIN).expect("the mark where the tables begin");
        let (tables, _) = rest.split_once(END).expect("the mark where the tables end");
        let mut kernels: BTreeMap<_, Rows> = BTreeMap::new();
        let mut kernel = None;
        for line in tables.lines() {
            if let Some(release) = line.strip_prefix(".Ss Linux ") {
                kernel = Some(parse(release));
            } else if let Some(row) = line.strip_prefix(".It \"") {
                let mut cells = row.split(" Ta ").map(|cell| cell.trim_matches('"').to_owned());
                let key = key(&cells.next().unwrap(), &cells.next().unwrap());
                kernels.entry(kernel.expect("a kernel")).or_default().push((key, cells.collect()));
            }
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
        Page { kernels, kernel: parse(&release), update: std::env::var_os(UPDATE).is_some() }
    }

    /// Fails unless the page, if it tells of this kernel at all, has this cell.
    pub(crate) fn compare(&self, attack: &Attack, access: Access, fs: Fs, column: usize, cell: &Cell) {
        let Some(rows) = self.kernels.get(&self.kernel).filter(|_| !self.update) else { return };
        let key = key(attack.title, access.title());
        let row = rows.iter().find(|row| row.0 == key).map(|row| row.1[fs as usize * HOLDS.len() + column].as_str());
        assert!(row == Some(&cell.text()), "daxfile-holds(7) has {row:?}, not {cell:?}: {UPDATE}=1 rewrites it");
    }

    /// Fails unless the page, if it tells of this kernel, tells of these attacks and no others.
    pub(crate) fn has_only(&self, attacks: &[Attack]) {
        let Some(rows) = self.kernels.get(&self.kernel).filter(|_| !self.update) else { return };
        let told: BTreeSet<&String> = rows.iter().map(|(key, _)| key).collect();
        let lines =
            attacks.iter().flat_map(|attack| attack.lines.iter().map(|line| key(attack.title, line.access.title())));
        let keys: Vec<String> = lines.collect();
        let made: BTreeSet<&String> = keys.iter().collect();
        assert!(made.len() == keys.len(), "two rows of one name");
        let differing: Vec<_> = told.symmetric_difference(&made).collect();
        assert!(differing.is_empty(), "daxfile-holds(7) and the table differ in {differing:?}: {UPDATE}=1 rewrites it");
    }

    /// The table of what was found, for people; the page is rewritten if that was asked for and nothing failed.
    pub(crate) fn conclude(
        &self,
        attacks: &[Attack],
        found: &BTreeMap<(usize, usize, usize), Cell>,
        passed: bool,
    ) -> String {
        let known = self.kernels.get(&self.kernel);
        let mut rows = Rows::new();
        let mut text = String::new();
        let columns = FILESYSTEMS.iter().flat_map(|fs| HOLDS.map(|hold| format!("{} {}", fs.name(), hold.name())));
        let columns: Vec<String> = columns.collect();
        let head = |text: &mut String, operation: &str, access: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:14}")).collect();
            let _ = writeln!(text, "{}", format!("{operation:46} {access:22}{cells}").trim_end());
        };
        head(&mut text, &format!("Linux {}.{}", self.kernel.0, self.kernel.1), "access", &columns);
        for (row, attack) in attacks.iter().enumerate() {
            for (line, through) in attack.lines.iter().enumerate() {
                let key = key(attack.title, through.access.title());
                let old = known.and_then(|rows| rows.iter().find(|row| row.0 == key));
                let cells: Vec<String> = (0..columns.len())
                    .map(|column| match (found.get(&(row, line, column)), old) {
                        (Some(cell), _) => cell.text(),
                        (None, _) if attack.not_on.iter().any(|no| no.0 as usize == column / HOLDS.len()) => "-".into(),
                        (None, Some((_, old))) => old[column].clone(),
                        (None, None) => "?".into(),
                    })
                    .collect();
                if (0..columns.len()).any(|column| found.contains_key(&(row, line, column))) {
                    head(&mut text, attack.title, through.access.title(), &cells);
                }
                rows.push((key, cells));
            }
        }
        if self.update && passed {
            assert!(
                rows.iter().all(|(_, cells)| cells.iter().all(|cell| cell != "?")),
                "{UPDATE}=1 needs every attack"
            );
            let mut kernels = self.kernels.clone();
            kernels.insert(self.kernel, rows);
            self.write(&kernels);
        }
        text
    }

    fn write(&self, kernels: &BTreeMap<(u32, u32), Rows>) {
        let mut tables = String::new();
        for ((major, minor), rows) in kernels {
            let head: Vec<String> = FILESYSTEMS
                .iter()
                .flat_map(|fs| HOLDS.map(|hold| format!("\"{} {}\"", fs.title(), hold.name())))
                .collect();
            let widths = [" \"busy; SIGBUS\"", " \"ext4 none\""].concat().repeat(FILESYSTEMS.len());
            let _ = write!(
                tables,
                ".Ss Linux {major}.{minor}\n\
                 .Bl -column \"fallocate KEEP_SIZE past the end\" \"write fd\"{widths}\n\
                 .It Em Operation Ta Em Through Ta {}\n",
                head.iter().map(|cell| format!("Em {cell}")).collect::<Vec<_>>().join(" Ta ")
            );
            for (key, cells) in rows {
                let (operation, access) = key.split_once('\n').unwrap();
                let _ = writeln!(tables, ".It \"{operation}\" Ta \"{access}\" Ta {}", quoted(cells));
            }
            tables += ".El\n";
        }
        let text = std::fs::read_to_string(path()).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        std::fs::write(path(), format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
    }
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
fn parse(release: &str) -> (u32, u32) {
    let mut numbers = release.trim().split(['.', '-']).map(|number| number.parse().expect("a number"));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
