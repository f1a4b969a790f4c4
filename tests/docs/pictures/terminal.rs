//! Terminals: commands and their output, in its colours.

use anstyle::{AnsiColor, Color, RgbColor};
use anstyle_svg::{Palette, Term};
use daxfile_tests::{Daxfile, Kind, Scratch};

use super::svg::Theme;
use crate::sessions::{parse, perform};

/// A line of prose that marks where the shown output begins.
const SHOWN: &str = "# shown\n";

/// Replaces numbers that change from run to run with fixed values of their kind.
const STEADY: &str = r"
s/inode [0-9]+ generation [0-9]+/inode 131 generation 3735928559/
s/device [0-9]+:[0-9]+/device 7:0/
s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/2026-11-27T09:00:00Z/g
";

pub(super) fn stat() -> impl Fn(&Theme) -> String {
    scene(
        "$ xfs_io -f -c 'pwrite -q 0 256k' -c 'falloc 256k 256k' -c 'truncate 1m' app.img\n\
         $ cp --reflink app.img copy.img\n\
         $ xfs_io -c 'pwrite -q 512k 64k' -c 'falloc -k 2m 64k' app.img\n\
         # shown\n\
         $ daxfile stat app.img\n",
    )
}

pub(super) fn refused() -> impl Fn(&Theme) -> String {
    scene(
        "$ xfs_io -f -c 'truncate 16m' -c 'pwrite -q 0 4m' -c 'pwrite -q 6m 10m' -c fsync sparse.img\n\
         # shown\n\
         $ daxfile pin sparse.img\n\
         $ daxfile prepare sparse.img\n\
         $ daxfile pin sparse.img\n",
    )
}

/// While the copy has the blocks, none can be used again: new blocks are always elsewhere.
pub(super) fn drift() -> impl Fn(&Theme) -> String {
    scene(
        "$ daxfile alloc -q -s 16M table.db\n\
         $ daxfile pin -q --hold none table.db\n\
         $ cp --reflink table.db backup.db\n\
         $ dd if=/dev/zero of=table.db bs=1M seek=4 count=1 conv=notrunc,fsync status=none\n\
         $ fallocate --zero-range -o 10M -l 512K table.db\n\
         $ fallocate --punch-hole -o 8M -l 512K table.db\n\
         $ truncate -s 15M table.db\n\
         $ truncate -s 0 backup.db\n\
         # shown\n\
         $ daxfile verify table.db\n",
    )
}

/// The output of a session after the line [`SHOWN`].
fn scene(session: &str) -> impl Fn(&Theme) -> String {
    let items = parse(&format!("$ daxfile() {{ command daxfile --color always \"$@\"; }}\n{session}"));
    let transcript = perform(&items, &Scratch::new(Kind::xfs()));
    let (_, shown) = transcript.split_once(SHOWN).expect("a line of prose");
    let steady = Daxfile::new([STEADY]).wrap(["sh", "-c", r#"exec sed -E "$1""#]).stdin(shown).run().expect(0);
    let lines: Vec<_> = steady.text().lines().filter(|line| !line.starts_with('[')).collect();
    let text = level(&lines).join("\n");
    move |theme| render(&text, theme)
}

/// The rows of changes with offsets of the device that another mkfs does not make different.
fn level(lines: &[&str]) -> Vec<String> {
    let mut offsets: Vec<String> = Vec::new();
    let mut steady = |cell: &str| match cell.rsplit_once("at ") {
        None => cell.to_owned(),
        Some((what, offset)) => {
            let known = offsets.iter().position(|known| known == offset).unwrap_or_else(|| {
                offsets.push(offset.to_owned());
                offsets.len() - 1
            });
            format!("{what}at {}", (known + 4) * 12_582_912)
        }
    };
    let Some(begin) = lines.iter().position(|line| line.starts_with("  logical ")) else {
        return lines.iter().map(|&line| line.to_owned()).collect();
    };
    let is_row = |line: &&&str| line.trim_start().starts_with(|first: char| first.is_ascii_digit());
    let end = begin + 1 + lines[begin + 1..].iter().take_while(is_row).count();
    let table: Vec<Vec<String>> = lines[begin..end]
        .iter()
        .map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(&mut steady).collect())
        .collect();
    let width = |column: usize| table.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let rows = table.iter().map(|row| {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("  {cell:0$}", width(column)));
        cells.collect::<String>().trim_end().to_owned()
    });
    let whole = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    [whole(&lines[..begin]), rows.collect(), whole(&lines[end..])].concat()
}

fn render(text: &str, theme: &Theme) -> String {
    let rgb = |(red, green, blue)| RgbColor(red, green, blue);
    let mut palette = [rgb(theme.text); 16];
    for (color, value) in [
        (AnsiColor::Black, theme.background),
        (AnsiColor::Red, theme.red),
        (AnsiColor::Green, theme.green),
        (AnsiColor::Yellow, theme.yellow),
        (AnsiColor::Blue, theme.blue),
        (AnsiColor::Magenta, theme.magenta),
        (AnsiColor::Cyan, theme.cyan),
    ] {
        let at = usize::from(anstyle::Ansi256Color::from_ansi(color).0);
        palette[at] = rgb(value);
        palette[at + 8] = rgb(value);
    }
    Term::new()
        .palette(Palette(palette))
        .fg_color(Color::Rgb(rgb(theme.text)))
        .bg_color(Color::Rgb(rgb(theme.background)))
        .render_svg(text)
}
