//! Text for people.

use std::io::{Result, Write};

use anstyle::{AnsiColor, Style as Ansi};
use comfy_table::{Table, presets::NOTHING};
use daxfile::blockers::{Blocker, Range};
use daxfile::drift::{Change, Place, State};
use daxfile::map::Layout;
use daxfile::name::quote;
use daxfile::report::{Action, FileReport, PinFacts, Report, flag_names, format_time};
use daxfile::sharers::Sharer;
use daxfile::size;
use daxfile::staging::Staging;

use super::Style;
use crate::cli::Verb;

/// Ranges that are shown of one blocker, unless all are asked for.
const SHOWN: usize = 3;

/// Prints a report.
pub(crate) fn text(verb: &Verb, report: &Report, style: Style, out: &mut impl Write) -> Result<()> {
    for file in &report.files {
        let mut page = Page { style, out };
        match verb {
            Verb::Stat { .. } => page.stat(file)?,
            Verb::Check { .. } => page.check(file)?,
            Verb::Verify { .. } => page.verify(file)?,
            Verb::Alloc { .. } | Verb::Prepare { .. } | Verb::Pin { .. } | Verb::Unpin { .. } => page.act(file)?,
        }
    }
    Ok(())
}

struct Page<'a, W> {
    style: Style,
    out: &'a mut W,
}

impl<W: Write> Page<'_, W> {
    fn size(&self, bytes: u64) -> String {
        size::format(bytes, self.style.exact)
    }

    fn paint(&self, color: AnsiColor, text: &str) -> String {
        if !self.style.color {
            return text.to_owned();
        }
        let ansi = Ansi::new().fg_color(Some(color.into()));
        format!("{ansi}{text}{ansi:#}")
    }

    fn good(&self, text: &str) -> String {
        self.paint(AnsiColor::Green, text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint(AnsiColor::Red, text)
    }

    fn headline(&mut self, file: &FileReport, says: &str) -> Result<()> {
        writeln!(self.out, "{}: {says}", quote(&file.path))
    }

    fn notes(&mut self, file: &FileReport) -> Result<()> {
        for note in &file.notes {
            writeln!(self.out, "  note: {note}")?;
        }
        Ok(())
    }

    fn act(&mut self, file: &FileReport) -> Result<()> {
        let blockers = file.blockers.as_deref().unwrap_or_default();
        if !blockers.is_empty() {
            let says = if file.pin.is_some() && file.action.is_none() { "refused" } else { "not pinnable" };
            let says = self.bad(says);
            self.headline(file, &says)?;
            return self.blockers(blockers);
        }
        let hold = file.pin.as_ref().and_then(|pin| pin.hold).map_or("", |hold| hold.name());
        let map = file.map.as_ref().map_or(String::new(), |map| {
            format!("{} in {}", self.size(map.summary.written), count(map.summary.extents, "extent"))
        });
        let says = match file.action {
            None => return self.notes(file),
            Some(Action::Created) => format!("created, {map}"),
            Some(Action::WouldCreate) => "would be created".into(),
            Some(Action::Pinned) => format!("pinned ({hold}), {}", count_of(file)),
            Some(Action::AlreadyPinned) => format!("already pinned ({hold}), {}", count_of(file)),
            Some(Action::WouldPin) => "would be pinned".into(),
            Some(Action::Unpinned) => "unpinned".into(),
            Some(Action::Prepared) => format!("prepared, {}", count_of(file)),
            Some(Action::AlreadyPrepared) => format!("nothing to prepare, {}", count_of(file)),
            Some(Action::WouldPrepare) => {
                let work = file.work.unwrap_or_default();
                let (write, allocate) = (self.size(work.write), self.size(work.allocate));
                format!("would be prepared: {write} to write, {allocate} to allocate")
            }
            Some(Action::WouldUnpin) => "would be unpinned".into(),
            Some(Action::AlreadyUnpinned) => "not pinned".into(),
        };
        let says = self.good(&says);
        self.headline(file, &says)?;
        self.notes(file)
    }

    fn check(&mut self, file: &FileReport) -> Result<()> {
        match file.blockers.as_deref() {
            None => {}
            Some([]) if file.error.is_some() => return self.notes(file),
            Some([]) => {
                let says = self.good("pinnable");
                let says = format!("{says}, {}", count_of(file));
                self.headline(file, &says)?;
            }
            Some(blockers) => {
                let says = self.bad("not pinnable");
                self.headline(file, &says)?;
                self.blockers(blockers)?;
            }
        }
        self.notes(file)
    }

    fn blockers(&mut self, blockers: &[Blocker]) -> Result<()> {
        for blocker in blockers {
            let kind = self.bad(blocker.kind.name());
            writeln!(self.out, "  {kind}: {}", blocker.detail)?;
            if !blocker.ranges.is_empty() {
                let ranges = self.ranges(&blocker.ranges);
                let total = self.size(blocker.bytes);
                let pieces = count(blocker.ranges.len() as u64, "range");
                writeln!(self.out, "    where:  {total} in {pieces}: {ranges}")?;
            }
            if let Some(sharers) = &blocker.sharers {
                let sharers: Vec<_> = sharers.iter().map(name_sharer).collect();
                let shown = if self.style.verbose { sharers.len() } else { SHOWN.min(sharers.len()) };
                let more = match sharers.len() - shown {
                    0 => String::new(),
                    more => format!(", … {more} more (-v)"),
                };
                writeln!(self.out, "    with:   {}{more}", sharers[..shown].join(", "))?;
            }
            writeln!(self.out, "    remedy: {}", blocker.remedy)?;
        }
        Ok(())
    }

    fn ranges(&self, ranges: &[Range]) -> String {
        let shown = if self.style.verbose { ranges.len() } else { SHOWN };
        let mut text: Vec<_> = ranges.iter().take(shown).map(one_range).collect();
        if ranges.len() > shown {
            text.push(format!("… {} more (-v)", ranges.len() - shown));
        }
        text.join(", ")
    }

    fn stat(&mut self, file: &FileReport) -> Result<()> {
        let (Some(facts), Some(map), Some(pin)) = (&file.file, &file.map, &file.pin) else { return Ok(()) };
        writeln!(self.out, "{}", quote(&file.path))?;
        let size = self.size(facts.size);
        let allocated = self.size(facts.allocated);
        writeln!(self.out, "  size    {size}, {allocated} allocated, blocks of {}", facts.block_size)?;
        let inode = format!("inode {} generation {}", facts.inode, facts.generation);
        writeln!(self.out, "  file    {}, {inode}, device {}", facts.filesystem, facts.device)?;
        // That it has attributes is no news where the pin is shown.
        let flags = facts.flags.iter().map(String::as_str).filter(|flag| *flag != "hasattr");
        let flags: Vec<_> = flags.chain(facts.dax.then_some("accessed as DAX")).collect();
        if !flags.is_empty() {
            writeln!(self.out, "  flags   {}", flags.join(", "))?;
        }
        let summary = &map.summary;
        let states = [
            (summary.written, "written"),
            (summary.unwritten, "unwritten"),
            (summary.shared, "shared"),
            (summary.unknown, "at no known place"),
            (summary.hole, "hole"),
            (summary.past_eof, "past EOF"),
        ];
        let states = states.iter().filter(|(bytes, _)| *bytes > 0);
        let states: Vec<_> = states.map(|(bytes, state)| format!("{} {state}", self.size(*bytes))).collect();
        let torn = if map.consistent { "" } else { " (not proved untorn)" };
        writeln!(self.out, "  map     {}: {}{torn}", count(summary.extents, "extent"), states.join(", "))?;
        if map.address_space != "filesystem's device" {
            let device = map.realtime_device.as_ref().map_or(String::new(), |device| format!(" {}", quote(device)));
            writeln!(self.out, "          physical offsets: {}{device}", map.address_space)?;
        }
        match map.staging {
            Some(Staging::CannotTell { bytes }) => {
                let bytes = self.size(bytes);
                writeln!(self.out, "          copy-on-write staging: cannot tell, {bytes} at most")?;
            }
            Some(Staging::Found { bytes }) => {
                let bytes = self.size(bytes);
                writeln!(self.out, "          copy-on-write staging: {bytes} at least")?;
            }
            Some(Staging::None) | None => {}
        }
        if !map.strip.is_empty() {
            let strip = self.strip(&map.strip);
            writeln!(self.out, "          [{strip}]")?;
        }
        let pin = self.pin(pin);
        writeln!(self.out, "  pin     {pin}")?;
        let against = file.blockers.as_deref().unwrap_or_default();
        if !against.is_empty() {
            let kinds: Vec<_> = against.iter().map(|blocker| blocker.kind.name()).collect();
            let kinds = self.bad(&kinds.join(", "));
            writeln!(self.out, "  against pinning: {kinds} (daxfile check says where)")?;
        }
        self.changes(file)?;
        self.notes(file)?;
        if let Some(extents) = &file.extents {
            writeln!(self.out, "  {:>20} {:>20} {:>20}  flags", "logical", "physical", "length")?;
            for extent in extents {
                let flags = flag_names(extent.flags).join(",");
                let columns = [extent.logical, extent.physical, extent.length];
                writeln!(self.out, "  {:>20} {:>20} {:>20}  {flags}", columns[0], columns[1], columns[2])?;
            }
        }
        Ok(())
    }

    fn strip(&self, cells: &[Layout]) -> String {
        cells
            .iter()
            .map(|cell| match cell {
                Layout::Written => self.good("#"),
                Layout::Unwritten => self.paint(AnsiColor::Yellow, "u"),
                Layout::Shared => self.paint(AnsiColor::Cyan, "s"),
                Layout::Unknown => self.bad("?"),
                Layout::Hole => self.bad("."),
            })
            .collect()
    }

    fn pin(&self, pin: &PinFacts) -> String {
        let state = pin.state.name();
        let state = match pin.state {
            State::Pinned => self.good(state),
            State::Unpinned => state.to_owned(),
            _ => self.bad(state),
        };
        let hold = pin.hold.map_or(String::new(), |hold| format!(", hold {}", hold.name()));
        let since = pin.pinned_at.and_then(format_time).map_or(String::new(), |time| format!(", since {time}"));
        let shared = match pin.shared_since {
            0 => String::new(),
            bytes => format!(", {} shared since", self.size(bytes)),
        };
        format!("{state}{hold}{since}{shared}")
    }

    fn verify(&mut self, file: &FileReport) -> Result<()> {
        if file.error.is_some() && file.map.is_none() {
            return Ok(());
        }
        if file.exit_status == daxfile::report::Status::Done {
            let says = self.good("as it was");
            let says = format!("{says}, {}", count_of(file));
            self.headline(file, &says)?;
        } else {
            let state = file.pin.as_ref().filter(|pin| pin.state != State::Pinned);
            let says = self.bad(state.map_or("differs", |pin| pin.state.name()));
            self.headline(file, &says)?;
        }
        if let Some(pin) = &file.pin {
            if let (Some(was), Some(facts)) = (pin.size_was, &file.file) {
                writeln!(self.out, "  size: {was} -> {}", facts.size)?;
            }
            if let (Some(was), Some(facts)) = (pin.mtime_was.and_then(format_time), &file.file) {
                writeln!(self.out, "  mtime: {was} -> {}", format_time(facts.mtime).unwrap_or_default())?;
            }
        }
        self.changes(file)?;
        self.notes(file)
    }

    fn changes(&mut self, file: &FileReport) -> Result<()> {
        const ROWS: usize = 20;
        let changes = file.changes.as_deref().unwrap_or_default();
        if changes.is_empty() {
            return Ok(());
        }
        let shown = if self.style.verbose { changes.len() } else { ROWS };
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["  logical", "length", "was", "now"]);
        for change in changes.iter().take(shown) {
            let Change { logical, length, was, now } = change;
            table.add_row([format!("  {logical}"), length.to_string(), describe(*was), describe(*now)]);
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        if changes.len() > shown {
            writeln!(self.out, "  … {} more (-v)", changes.len() - shown)?;
        }
        Ok(())
    }
}

fn name_sharer(sharer: &Sharer) -> String {
    match &sharer.path {
        Some(path) => format!("{} (inode {})", quote(path), sharer.inode),
        None => format!("inode {}", sharer.inode),
    }
}

fn describe(place: Place) -> String {
    match place {
        Place::Hole => "hole".into(),
        Place::Written { physical } => format!("at {physical}"),
        Place::Unwritten { physical } => format!("unwritten at {physical}"),
        Place::Digest => "(digest)".into(),
    }
}

fn one_range(range: &Range) -> String {
    let off = range.off.map_or(String::new(), |off| format!(" (off by {off})"));
    format!("{}+{}{off}", range.logical, range.length)
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn count_of(file: &FileReport) -> String {
    file.map.as_ref().map_or(String::new(), |map| count(map.summary.extents, "extent"))
}
