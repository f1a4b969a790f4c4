//! places.tsv: every place in the kernel that can change a map, and the check that stops it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use daxfile_tests::child::finish;

const TABLE: &str = include_str!("places.tsv");
const KERNELS: [&str; 3] = ["6.1", "6.12", "newest"];
const VERDICTS: [&str; 6] = ["asked", "hook", "through", "harmless", "elsewhere", "nothing"];

/// The places of each kernel.
type Places = BTreeMap<&'static str, BTreeSet<String>>;

/// The table, and the mistakes in its form.
#[derive(Default)]
struct Table {
    places: Places,
    attacks: BTreeSet<String>,
    complaints: Vec<String>,
}

fn parse(text: &str) -> Table {
    let mut table = Table::default();
    let mut judged = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            judged = false;
            continue;
        }
        let mut complain = |why: &str| table.complaints.push(format!("places.tsv:{number}: {why}: {line}"));
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["", kernels, place] if judged => {
                let kernels = if kernels == "all" { KERNELS.to_vec() } else { kernels.split(' ').collect() };
                for kernel in kernels {
                    match KERNELS.into_iter().find(|known| *known == kernel) {
                        None => complain("no such kernel"),
                        Some(kernel) if table.places.entry(kernel).or_default().insert(place.to_owned()) => {}
                        Some(_) => complain("twice"),
                    }
                }
            }
            [verdict, reason, attacks] if VERDICTS.contains(&verdict) && !reason.is_empty() => {
                judged = true;
                let named = attacks.split(' ').filter(|attack| *attack != "-").map(str::to_owned);
                table.attacks.extend(named);
            }
            _ => complain("not a judgement, and not a place below one"),
        }
    }
    table
}

/// Compares the table with the places that the kernels have and with the names of the attacks.
fn complaints(text: &str, listed: &Places, attacks: &BTreeSet<&str>) -> Vec<String> {
    let table = parse(text);
    let mut complaints = table.complaints;
    let nowhere = BTreeSet::new();
    for (kernel, listed) in listed {
        let judged = table.places.get(kernel).unwrap_or(&nowhere);
        complaints
            .extend(listed.difference(judged).map(|place| format!("Linux {kernel} has a place not judged: {place}")));
        complaints.extend(judged.difference(listed).map(|place| format!("Linux {kernel} has no such place: {place}")));
    }
    let unknown = table.attacks.iter().filter(|attack| !attacks.contains(attack.as_str()));
    complaints.extend(unknown.map(|attack| format!("no such attack: {attack}")));
    complaints
}

/// Fails if the table is malformed or names an unknown attack, or if the comparison does not notice a missing line.
pub(crate) fn are_judged_once(attacks: &BTreeSet<&str>) {
    let listed = parse(TABLE).places;
    assert_eq!(listed.keys().copied().collect::<Vec<_>>(), KERNELS);
    let found = complaints(TABLE, &listed, attacks);
    assert!(found.is_empty(), "{}", found.join("\n"));

    let lines: Vec<&str> = TABLE.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let Some((_, place)) = line.strip_prefix('\t').and_then(|line| line.split_once('\t')) else { continue };
        let without = [&lines[..number], &lines[number + 1..]].concat().join("\n");
        let missed: BTreeSet<String> = complaints(&without, &listed, attacks).into_iter().collect();
        let kernels = KERNELS.iter().filter(|kernel| listed[**kernel].contains(place));
        let expected: BTreeSet<String> =
            kernels.map(|kernel| format!("Linux {kernel} has a place not judged: {place}")).collect();
        assert!(expected.is_subset(&missed) && !expected.is_empty(), "without {place}: {missed:?}");
    }

    let invented = format!("{TABLE}\nharmless\tinvented\tno-attack\n\tnewest\tfs/none.c:none:none()\n");
    let expected = ["Linux newest has no such place: fs/none.c:none:none()", "no such attack: no-attack"];
    assert_eq!(complaints(&invented, &listed, attacks), expected);
}

/// Fails unless the table judges exactly the places that the kernels of the lab have.
pub(crate) fn are_complete(attacks: &BTreeSet<&str>) {
    let listed: Places = KERNELS.into_iter().map(|kernel| (kernel, list(kernel))).collect();
    for (kernel, places) in &listed {
        println!("Linux {kernel}: {} places", places.len());
    }
    let found = complaints(TABLE, &listed, attacks);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn list(kernel: &str) -> BTreeSet<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/places.sh");
    let output = finish(Command::new(script).arg(kernel));
    assert!(output.status.success(), "places.sh {kernel}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
