//! The summary in daxfile-holds(7) as a grid of colours.

use super::svg::{Anchor, Svg, Theme};
use crate::read;

const ROW: f64 = 25.0;
const NAMES: f64 = 190.0;
const CELL: f64 = 84.0;
const MARGIN: f64 = 16.0;
const TOP: f64 = 76.0;

/// The literal lines of the display that comes first after `mark`.
fn display(page: &str, mark: &str) -> Vec<String> {
    let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("daxfile-holds(7) has no {mark:?}"));
    let (_, rest) = rest.split_once(".Bd -literal\n").expect("a display");
    let (text, _) = rest.split_once(".Ed").expect("its end");
    text.lines().map(|line| line.replace("\\-", "-").replace("\\&", "")).collect()
}

/// The words that lie two blanks or more apart, and where they begin.
fn columns(line: &str) -> Vec<(usize, &str)> {
    let mut columns = Vec::new();
    let mut at = 0;
    for part in line.split("  ") {
        let word = part.trim_start();
        if !word.is_empty() {
            columns.push((at + part.len() - word.len(), word.trim_end()));
        }
        at += part.len() + 2;
    }
    columns
}

pub(super) fn grid() -> impl Fn(&Theme) -> String {
    let page = read("man/daxfile-holds.7");
    let legend = display(&page, ".Ss Summary\n");
    let summary = display(&page, ".\\\" The attack suite writes what follows.\n");
    move |theme| draw(&legend, &summary, theme)
}

fn draw(legend: &[String], summary: &[String], theme: &Theme) -> String {
    let [filesystems, holds, rows @ ..] = summary else { panic!("no summary: {summary:?}") };
    let (kernel, filesystems) =
        columns(filesystems).split_first().map(|(first, rest)| (first.1, rest.to_vec())).unwrap();
    let starts: Vec<usize> = word_starts(holds);
    assert!(starts.len() == 6 && rows.len() >= 10, "{holds}: {rows:?}");
    let row_of = |row: usize| TOP + ROW * f64::from(u32::try_from(row).unwrap());
    let x_of = |column: usize| MARGIN + NAMES + CELL * f64::from(u32::try_from(column).unwrap());
    let foot = row_of(rows.len()) + 26.0;
    let height = foot + ROW * f64::from(u32::try_from(legend.len()).unwrap());
    let mut svg = Svg::new(theme, MARGIN * 2.0 + NAMES + CELL * 6.0, height);
    svg.bold((MARGIN, 34.0), Anchor::Start, theme.text, kernel);
    for (at, filesystem) in filesystems {
        let column = starts.iter().position(|start| *start >= at).expect("its holds are below it");
        svg.bold((x_of(column) + CELL * 1.5, 34.0), Anchor::Middle, theme.text, filesystem);
    }
    for (column, start) in starts.iter().enumerate() {
        let hold = holds[*start..].split_whitespace().next().expect("a hold");
        svg.text((x_of(column) + CELL / 2.0, 62.0), Anchor::Middle, theme.faint, hold);
    }
    for (index, row) in rows.iter().enumerate() {
        let y = row_of(index);
        svg.text((MARGIN, y + 17.0), Anchor::Start, theme.text, row[..starts[0]].trim_end());
        for (column, start) in starts.iter().enumerate() {
            let end = starts.get(column + 1).copied().unwrap_or(row.len()).min(row.len());
            let word = row.get(*start..end).unwrap_or_default().trim_end();
            cell(&mut svg, (x_of(column) + 1.0, y + 1.0), word);
        }
    }
    for (line, text) in legend.iter().enumerate() {
        let y = foot + ROW * f64::from(u32::try_from(line).unwrap());
        for (pair, x) in columns(text).chunks(2).zip([MARGIN, MARGIN + 340.0]) {
            let [(_, word), (_, meaning)] = pair else { panic!("{text}: not words and meanings") };
            cell(&mut svg, (x, y - 17.0), word);
            svg.text((x + CELL + 6.0, y), Anchor::Start, theme.faint, meaning);
        }
    }
    svg.finish()
}

fn word_starts(line: &str) -> Vec<usize> {
    let bytes = line.as_bytes();
    (0..bytes.len()).filter(|&at| bytes[at] != b' ' && (at == 0 || bytes[at - 1] == b' ')).collect()
}

fn cell(svg: &mut Svg, at: (f64, f64), word: &str) {
    let theme = svg.theme;
    let color = match word.trim_end_matches('*') {
        "refused" => theme.green,
        "same" => theme.blue,
        "shared" => theme.magenta,
        "seen" => theme.yellow,
        "no pin" | "" | "-" => theme.faint,
        other => panic!("a result without a colour: {other}"),
    };
    svg.rect(at, (CELL - 2.0, ROW - 2.0), theme.tint(color), None);
    svg.text((at.0 + CELL / 2.0 - 1.0, at.1 + 16.0), Anchor::Middle, theme.text, word);
}
