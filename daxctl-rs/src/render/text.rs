//! Text output for people.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{Result, Write};
use std::iter::repeat;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anstyle::{AnsiColor, Style as Ansi};
use comfy_table::{Table, presets::NOTHING};
use daxfile::file::blockers::{Blocker, Range};
use daxfile::file::layout::Layout;
use daxfile::file::map::Runs;
use daxfile::file::sharers::Sharer;
use daxfile::file::staging::Staging;
use daxfile::file::strip::Strip;
use daxfile::name::quote;
use daxfile::pin::drift::{Change, Place};
use daxfile::pin::state::State;
use daxfile::report::{Action, FileReport, Mapping, PinFacts, ResumeSetting, flag_names, format_time, xflag_names};
use daxfile::size;
use daxfile::status::Status;
use daxfile::system::devices::{Layer, SECTOR};
use daxfile::system::filesystem::AddressSpace;
use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::statx::Time;
use textwrap::core::Word;
use textwrap::{Options, WordSeparator, WordSplitter, wrap};

use super::Style;
use crate::cli::Verb;

/// Characters of a strip that no terminal shows.
const CELLS: usize = 64;

/// Characters on the line of a strip, besides the strip.
const MARGIN: usize = "           []".len();

/// Ranges to show of one blocker, unless the user asks for all.
const SHOWN: usize = 3;

/// Prints a report.
pub(super) fn text(verb: &Verb, file: &FileReport, style: Style, out: &mut impl Write) -> Result<()> {
    let mut page = Page { style, out };
    match verb {
        Verb::Stat { .. } => page.stat(file),
        Verb::Check { .. } => page.check(file),
        Verb::Completions { .. } | Verb::Man { .. } => Ok(()),
        Verb::List { null, .. } => page.list_line(file, *null),
        Verb::Map { .. } => page.mapping(file),
        Verb::Probe { .. } => page.probe(file),
        Verb::Verify { against: Some(_), .. } => page.verify_against(file),
        Verb::Verify { .. } => page.verify(file),
        Verb::Alloc { .. } | Verb::Prepare { .. } | Verb::Pin { .. } | Verb::Unpin { .. } => page.act(verb, file),
    }
}

struct Page<'a, W> {
    style: Style,
    out: &'a mut W,
}

impl<W: Write> Page<'_, W> {
    fn size(&self, bytes: u64) -> impl Display + use<W> {
        size::format(bytes, self.style.exact)
    }

    fn ansi(&self, color: AnsiColor) -> Ansi {
        if self.style.color { Ansi::new().fg_color(Some(color.into())) } else { Ansi::new() }
    }

    fn paint<'t>(&self, color: AnsiColor, text: &'t str) -> Cow<'t, str> {
        if !self.style.color {
            return text.into();
        }
        let ansi = self.ansi(color);
        format!("{ansi}{text}{ansi:#}").into()
    }

    fn good<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.paint(AnsiColor::Green, text)
    }

    fn bad<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.paint(AnsiColor::Red, text)
    }

    /// Prints text after a title; folded lines align under the text.
    fn row(&mut self, title: &str, text: &str) -> Result<()> {
        self.folded(title, text, WordSeparator::AsciiSpace)
    }

    /// Like `row`, but folds only after commas and colons.
    fn series(&mut self, title: &str, text: &str) -> Result<()> {
        fn parts(text: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
            Box::new(text.split_inclusive(", ").flat_map(|part| part.split_inclusive(": ")).map(Word::from))
        }
        self.folded(title, text, WordSeparator::Custom(parts))
    }

    fn folded(&mut self, title: &str, text: &str, separator: WordSeparator) -> Result<()> {
        let Some(width) = self.style.width else { return writeln!(self.out, "{title}{text}") };
        let indent = " ".repeat(title.len());
        let options = Options::new(width)
            .initial_indent(title)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_separator(separator)
            .word_splitter(WordSplitter::NoHyphenation);
        wrap(text, options).iter().try_for_each(|line| writeln!(self.out, "{line}"))
    }

    fn headline(&mut self, file: &FileReport, says: &str) -> Result<()> {
        writeln!(self.out, "{}: {says}", quote(&file.path))
    }

    fn notes(&mut self, file: &FileReport) -> Result<()> {
        for note in &file.notes {
            self.row("  note: ", note)?;
        }
        Ok(())
    }

    /// Prints the notes of a file about which standard output says nothing else.
    fn notes_alone(&mut self, file: &FileReport) -> Result<()> {
        let title = format!("{}: note: ", quote(&file.path));
        file.notes.iter().try_for_each(|note| self.row(&title, note))
    }

    fn act(&mut self, verb: &Verb, file: &FileReport) -> Result<()> {
        let blockers = file.blockers.as_deref().unwrap_or_default();
        if !blockers.is_empty() {
            let says = self.bad(if matches!(verb, Verb::Alloc { .. }) { "not created" } else { "refused" });
            self.headline(file, &says)?;
            return self.blockers(file);
        }
        let hold = file.pin.as_ref().and_then(|pin| pin.hold).map_or("", |hold| hold.name());
        let says = match file.action {
            None => return self.notes_alone(file),
            Some(Action::Created) => {
                let size = file.file.as_ref().map_or(0, |facts| facts.size);
                format!("created, {} in {}", self.size(size), count_of(file))
            }
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

    /// Prints only the map, for the program that reads it; blockers go to standard error.
    fn mapping(&mut self, file: &FileReport) -> Result<()> {
        match &file.mapping {
            None => Ok(()),
            Some(Mapping::Dmsetup { device, segments }) => segments.iter().try_for_each(|segment| {
                let [logical, length, physical] =
                    [segment.logical, segment.length, segment.physical].map(|bytes| bytes / SECTOR);
                writeln!(self.out, "{logical} {length} linear {device} {physical}")
            }),
            Some(Mapping::Resume { resume, resume_offset, settings: None, .. }) => {
                writeln!(self.out, "resume={resume} resume_offset={resume_offset}")
            }
            Some(Mapping::Resume { device, resume, resume_offset, settings: Some(settings), .. }) => {
                let says = match file.exit_status {
                    Status::Done => self.good("the kernel is set to resume from it"),
                    _ => self.bad("the kernel is not set to resume from it"),
                };
                self.headline(file, &says)?;
                writeln!(self.out, "  this file      resume={resume} resume_offset={resume_offset} (device {device})")?;
                settings.iter().try_for_each(|setting| self.resume_setting(setting))
            }
        }
    }

    fn resume_setting(&mut self, ResumeSetting { setting, matches }: &ResumeSetting) -> Result<()> {
        // root controls the kernel's command line, but not everything that it is made of.
        let device = setting.resume.as_ref().map(|resume| format!("resume={}", quote(Path::new(resume))));
        let offset = setting.resume_offset.map(|offset| format!("resume_offset={offset}"));
        let set: Vec<_> = device.into_iter().chain(offset).collect();
        let differs = match matches {
            Some(false) => format!(": {}", self.bad("differs")),
            Some(true) | None => String::new(),
        };
        let set = if set.is_empty() { "not set".to_owned() } else { set.join(" ") };
        writeln!(self.out, "  {:<15}{set}{differs}", setting.source)
    }

    fn probe(&mut self, file: &FileReport) -> Result<()> {
        let Some(probe) = &file.probe else { return Ok(()) };
        let (host, filesystem) = (&probe.host, &probe.filesystem);
        let unknown = || "unknown".to_owned();
        let list = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
        writeln!(self.out, "{}", quote(&file.path))?;
        self.row("  kernel      ", &host.kernel)?;
        self.row("  LSMs        ", &host.lsm.as_deref().map_or_else(unknown, list))?;
        self.row("  lockdown    ", &host.lockdown.clone().unwrap_or_else(unknown))?;
        let namespace = match host.initial_user_namespace {
            Some(true) => "",
            Some(false) => ", in a user namespace only",
            None => ", in an unknown user namespace",
        };
        self.row("  caller has  ", &format!("{}{namespace}", list(&host.capabilities).to_lowercase()))?;
        let seconds = host.lease_break_time.map_or_else(unknown, |seconds| format!("{seconds} s"));
        self.row("  leases      ", &format!("broken by force after {seconds}"))?;
        self.row("  filesystem  ", &format!("{}, blocks of {}", filesystem.name, self.size(filesystem.block_size)))?;
        self.row("              ", &format!("UUID {}", filesystem.uuid.as_deref().unwrap_or("unknown")))?;
        let features = filesystem.features.as_deref().map_or_else(unknown, list);
        self.row("              ", &format!("features: {features}"))?;
        match &filesystem.mount {
            None => self.row("  mount       ", "unknown: in another mount namespace")?,
            Some(mount) => {
                let (source, point) = (quote(&mount.source), quote(&mount.point));
                self.row("  mount       ", &format!("{source} on {point}"))?;
                let options = mount.options.iter().map(|option| quote(Path::new(option)).to_string());
                self.row("              ", &options.collect::<Vec<_>>().join(", "))?;
            }
        }
        for (layer, title) in probe.devices.iter().zip(["  device      "].into_iter().chain(repeat("    on        "))) {
            self.row(title, &layer_line(layer))?;
        }
        for (facts, title) in probe.holds.iter().zip(["  holds       "].into_iter().chain(repeat("              "))) {
            let says = match &facts.missing {
                None => self.good("yes"),
                Some(missing) => format!("{}, {missing}", self.bad("no")).into(),
            };
            self.row(title, &format!("{}: {says}", facts.hold.name()))?;
        }
        self.notes(file)
    }

    fn check(&mut self, file: &FileReport) -> Result<()> {
        match file.blockers.as_deref() {
            None => {}
            Some([]) if file.error.is_some() => return self.notes_alone(file),
            Some([]) => {
                let pinned = file.pin.as_ref().is_some_and(|pin| pin.state == State::Pinned);
                let says = self.good(if pinned { "pinned" } else { "pinnable" });
                let says = format!("{says}, {}", count_of(file));
                self.headline(file, &says)?;
            }
            Some(_) => {
                let says = self.bad("not pinnable");
                self.headline(file, &says)?;
                self.blockers(file)?;
            }
        }
        self.notes(file)
    }

    fn blockers(&mut self, file: &FileReport) -> Result<()> {
        let size = file.file.as_ref().map_or(u64::MAX, |facts| facts.size);
        for blocker in file.blockers.as_deref().unwrap_or_default() {
            let kind = blocker.kind.words();
            let kind = self.bad(&kind);
            self.row("  ", &format!("{kind}: {}", blocker.detail))?;
            if !blocker.ranges.is_empty() {
                let ranges = self.ranges(blocker, size);
                self.series("    where:  ", &ranges)?;
            }
            if let Some(sharers) = &blocker.sharers {
                let sharers: Vec<_> = sharers.iter().map(name_sharer).collect();
                let shown = if self.style.verbose { sharers.len() } else { SHOWN.min(sharers.len()) };
                let more = match sharers.len() - shown {
                    0 => String::new(),
                    more => format!(", … {more} more (-v)"),
                };
                self.series("    with:   ", &format!("{}{more}", sharers[..shown].join(", ")))?;
            }
            // Not folded: the remedy may be a command to copy.
            writeln!(self.out, "    remedy: {}", blocker.remedy)?;
            if let Some(alternative) = &blocker.alternative {
                writeln!(self.out, "    or:     {alternative}")?;
            }
        }
        Ok(())
    }

    /// Lengths are for people, and count only bytes in the file: the last block may reach past its end. Offsets are
    /// exact, because people pass them to other programs.
    fn ranges(&self, blocker: &Blocker, size: u64) -> String {
        let within = |range: &Range| {
            let end = range.logical.saturating_add(range.length);
            if range.logical < size { end.min(size) - range.logical } else { range.length }
        };
        let ranges = &blocker.ranges;
        let shown = if self.style.verbose { ranges.len() } else { SHOWN };
        let one = |range: &Range| {
            let off = range.off.map_or(String::new(), |off| format!(" (off by {})", self.size(off)));
            format!("{} at byte {}{off}", self.size(within(range)), range.logical)
        };
        let mut text: Vec<_> = ranges.iter().take(shown).map(one).collect();
        let total = blocker.range_count.unwrap_or(ranges.len() as u64);
        text.extend(more(total, shown.min(ranges.len()), ranges.len()));
        let text = text.join(", ");
        match total {
            1 => text,
            many => {
                let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(within(range)));
                format!("{} in {many} ranges: {text}", self.size(bytes))
            }
        }
    }

    fn stat(&mut self, file: &FileReport) -> Result<()> {
        let (Some(facts), Some(map), Some(pin)) = (&file.file, &file.map, &file.pin) else { return Ok(()) };
        writeln!(self.out, "{}", quote(&file.path))?;
        let size = self.size(facts.size);
        let allocated = self.size(facts.allocated);
        let block_size = self.size(facts.block_size);
        self.series("  size     ", &format!("{size}, {allocated} allocated, blocks of {block_size}"))?;
        let (name, inode, generation) = (facts.filesystem, facts.inode, facts.generation);
        let (major, minor) = facts.device;
        self.series("  file     ", &format!("{name}, inode {inode} generation {generation}, device {major}:{minor}"))?;
        // HASATTR says nothing new where the pin is shown.
        let flags = facts.flags - Xflags::HASATTR;
        if !flags.is_empty() {
            let flags = xflag_names(flags);
            self.series("  flags    ", &flags.join(", "))?;
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
        let between = if states.is_empty() { "" } else { ": " };
        let torn = if map.consistent { "" } else { " (not read atomically)" };
        let extents = count(summary.extents);
        self.series("  map      ", &format!("{extents}{between}{}{torn}", states.join(", ")))?;
        if map.address_space != AddressSpace::Device {
            let device = map.realtime_device.as_ref().map_or(String::new(), |device| format!(" {}", quote(device)));
            self.row("           ", &format!("physical offsets: {}{device}", map.address_space.name()))?;
        }
        if facts.dax {
            let sync = match facts.map_sync {
                Some(true) => "with MAP_SYNC",
                Some(false) => "without MAP_SYNC",
                None => "MAP_SYNC unknown",
            };
            let [large, huge] = [summary.mappable_2m, summary.mappable_1g].map(|bytes| self.size(bytes));
            self.row("  DAX      ", &format!("{sync}; entries of 2 MiB can map {large}, of 1 GiB {huge}"))?;
        }
        match map.staging {
            Some(Staging::CannotTell { bytes }) => {
                let bytes = self.size(bytes);
                self.row("           ", &format!("copy-on-write staging: unknown, at most {bytes}"))?;
            }
            Some(Staging::Found { bytes }) => {
                let bytes = self.size(bytes);
                self.row("           ", &format!("copy-on-write staging: at least {bytes}"))?;
            }
            Some(Staging::None) | None => {}
        }
        if let Some(strip) = &map.strip {
            write!(self.out, "           [")?;
            self.strip(strip)?;
            writeln!(self.out, "]")?;
        }
        self.pin(pin)?;
        let blockers = file.blockers.as_deref().unwrap_or_default();
        // A pinned file has passed these checks already, and its pin may have allowed some blockers.
        if pin.hold.is_none() && !blockers.is_empty() {
            let kinds: Vec<_> = blockers.iter().map(|blocker| blocker.kind.words()).collect();
            let kinds = kinds.join(", ");
            let kinds = self.bad(&kinds);
            self.series("  blockers ", &format!("{kinds} (daxfile check says where)"))?;
        }
        self.changes(file)?;
        self.notes(file)?;
        file.extents.as_ref().map_or(Ok(()), |extents| self.extents(extents))
    }

    /// There may be millions of rows. So this allocates nothing per row, and puts the numbers into their columns by
    /// hand, which takes a fifth of the time that `write!` does.
    fn extents(&mut self, extents: &Runs) -> Result<()> {
        writeln!(self.out, "  {:>20} {:>20} {:>20}  flags", "logical", "physical", "length")?;
        let mut named = (ExtentFlags::empty(), String::new());
        for extent in extents.iter() {
            let mut row = [b' '; 64];
            put(&mut row[..22], extent.logical);
            put(&mut row[22..43], extent.physical);
            put(&mut row[43..], extent.length);
            if extent.flags != named.0 {
                let names = flag_names(extent.flags).join(",");
                named = (extent.flags, if names.is_empty() { names } else { format!("  {names}") });
            }
            self.out.write_all(&row)?;
            self.out.write_all(named.1.as_bytes())?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn strip(&mut self, strip: &Strip) -> Result<()> {
        let width = self.style.width.map_or(CELLS, |width| width.saturating_sub(MARGIN));
        for cells in strip.in_width(width).chunk_by(|one, next| one == next) {
            let (sign, color) = match cells[0] {
                Layout::Written => (b'#', AnsiColor::Green),
                // Yellow and cyan are too pale on white, blue is too dark on black.
                Layout::Unwritten => (b'u', AnsiColor::Magenta),
                Layout::Shared => (b's', AnsiColor::Magenta),
                Layout::Moved => (b'M', AnsiColor::Red),
                Layout::Unknown => (b'?', AnsiColor::Red),
                Layout::Hole => (b'.', AnsiColor::Red),
            };
            let ansi = self.ansi(color);
            write!(self.out, "{ansi}")?;
            self.out.write_all(&vec![sign; cells.len()])?;
            write!(self.out, "{ansi:#}")?;
        }
        Ok(())
    }

    fn pin(&mut self, pin: &PinFacts) -> Result<()> {
        let state = match pin.state {
            State::Pinned => self.good(name(pin.state)),
            State::Unpinned => name(pin.state).into(),
            _ => self.bad(name(pin.state)),
        };
        let mut line = state.into_owned();
        if let (Some(hold), Some(time)) = (pin.hold, pin.pinned_at.and_then(to_the_second)) {
            line += &format!(" ({}, recorded {time})", hold.name());
        }
        if pin.shared_since > 0 {
            line += &format!(", {} shared since the pin", self.size(pin.shared_since));
        }
        self.series("  pin      ", &line)?;
        let mut options = Vec::new();
        options.extend(pin.align.map(|align| format!("--align {}", self.size(align))));
        options.extend(pin.max_extents.map(|most| format!("--max-extents {most}")));
        options.extend((!pin.allowed.is_empty()).then(|| format!("--allow {}", pin.allowed.join(","))));
        options.extend((pin.dax == Some(true)).then(|| "--dax".to_owned()));
        if !options.is_empty() {
            self.series("  options  ", &options.join(", "))?;
        }
        match &pin.note {
            Some(note) => self.row("  note     ", &quote(Path::new(note))),
            None => Ok(()),
        }
    }

    /// One line per file, so that lists can be searched and sorted.
    fn list_line(&mut self, file: &FileReport, null: bool) -> Result<()> {
        let Some(pin) = &file.pin else { return Ok(()) };
        if null {
            self.out.write_all(file.path.as_os_str().as_bytes())?;
            return self.out.write_all(b"\0");
        }
        let state = format!("{:<14}", name(pin.state));
        let state = if pin.state == State::Pinned { self.good(&state) } else { self.bad(&state) };
        let hold = pin.hold.map_or("-", |hold| hold.name());
        let since = pin.pinned_at.and_then(to_the_second).unwrap_or_else(|| "-".into());
        write!(self.out, "{state} {hold:<8} {since:<20}  {}", quote(&file.path))?;
        if let Some(note) = &pin.note {
            write!(self.out, "  {}", quote(Path::new(note)))?;
        }
        writeln!(self.out)?;
        self.notes(file)
    }

    fn verify(&mut self, file: &FileReport) -> Result<()> {
        if file.gone {
            let says = self.bad("gone");
            return self.headline(file, &says);
        }
        let (Some(facts), Some(pin)) = (&file.file, &file.pin) else { return Ok(()) };
        let says = match pin.state {
            _ if file.exit_status == Status::Done => format!("{}, {}", self.good("unchanged"), count_of(file)).into(),
            // The error on standard error says what could not be seen.
            State::Pinned if file.error.is_some() => return Ok(()),
            // Only --strict rejects a file that is unchanged.
            State::Pinned => self.bad("shared"),
            state => self.bad(name(state)),
        };
        self.headline(file, &format!("{says}{}", noted(pin)))?;
        if let Some(was) = pin.size_was {
            writeln!(self.out, "  size: {was} -> {}", facts.size)?;
        }
        if let Some(was) = pin.mtime_was.and_then(format_time) {
            writeln!(self.out, "  mtime: {was} -> {}", format_time(facts.mtime).unwrap_or_default())?;
        }
        self.changes(file)?;
        self.notes(file)
    }

    fn verify_against(&mut self, file: &FileReport) -> Result<()> {
        let says = match file.exit_status {
            Status::Done => format!("{}, {}", self.good("unchanged"), count_of(file)).into(),
            Status::No if file.gone => self.bad("gone"),
            Status::No => self.bad("differs"),
            _ => return Ok(()),
        };
        self.headline(file, &says)?;
        self.changes(file)?;
        self.notes(file)
    }

    fn changes(&mut self, file: &FileReport) -> Result<()> {
        const ROWS: usize = 20;
        let changes = file.changes.as_deref().unwrap_or_default();
        if changes.is_empty() {
            return Ok(());
        }
        if let Some([was, now]) = &file.strips {
            for (title, strip) in [("  was  [", was), ("  now  [", now)] {
                write!(self.out, "{title}")?;
                self.strip(strip)?;
                writeln!(self.out, "]")?;
            }
        }
        let shown = if self.style.verbose { changes.len() } else { ROWS };
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([" logical", "length", "was", "now"]);
        for change in changes.iter().take(shown) {
            let Change { logical, length, was, now } = change;
            table.add_row([format!(" {logical}"), length.to_string(), describe(*was), describe(*now)]);
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        let total = file.change_count.unwrap_or(changes.len() as u64);
        if let Some(more) = more(total, shown.min(changes.len()), changes.len()) {
            writeln!(self.out, "  {more}")?;
        }
        Ok(())
    }
}

/// Returns how many items a list leaves out, and how to see more if more were kept than are shown.
fn more(total: u64, shown: usize, kept: usize) -> Option<String> {
    let more = total.saturating_sub(shown as u64);
    let how = if kept > shown { " (-v)" } else { "" };
    (more > 0).then(|| format!("… {more} more{how}"))
}

/// Writes a number right-aligned into its column.
fn put(column: &mut [u8], number: u64) {
    let mut rest = number;
    for cell in column.iter_mut().rev() {
        *cell = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
}

fn layer_line(layer: &Layer) -> String {
    let mut line = format!("{} {}, {}", layer.device, layer.name, layer.kind.name().replace('_', "-"));
    if let Some(file) = &layer.backing_file {
        line += &format!(" {}", quote(file));
    }
    if let Some(mapped) = &layer.mapped {
        let targets = match &mapped.targets {
            None => "targets unknown: needs CAP_SYS_ADMIN".to_owned(),
            Some(targets) => targets
                .chunk_by(|one, next| one == next)
                .map(|same| if same.len() == 1 { same[0].clone() } else { format!("{} {}", same.len(), same[0]) })
                .collect::<Vec<_>>()
                .join(", "),
        };
        line += &format!(" {} ({targets})", quote(Path::new(&mapped.mapped_name)));
    }
    if let Some(start) = layer.start {
        line += &format!(" from {start}");
    }
    match layer.dax {
        Some(true) => line + ", DAX",
        Some(false) => line,
        None => line + ", DAX unknown",
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

/// The name of a state for people; to them, "unpinned" is the result of unpin.
pub(super) fn name(state: State) -> &'static str {
    match state {
        State::Pinned => "pinned",
        State::Drifted => "drifted",
        State::WriterInside => "writer inside",
        State::NotHeld => "not held",
        State::Unpinned => "not pinned",
        State::ForeignRecord => "foreign record",
        State::BadRecord => "bad record",
    }
}

fn to_the_second(time: Time) -> Option<String> {
    format_time(Time { nanoseconds: 0, ..time })
}

/// The note on the pin, as the end of a line.
fn noted(pin: &PinFacts) -> String {
    pin.note.as_ref().map_or(String::new(), |note| format!(", {}", quote(Path::new(note))))
}

/// The number of its extents, in words.
fn count_of(file: &FileReport) -> String {
    file.map.as_ref().map_or(String::new(), |map| count(map.summary.extents))
}

fn count(extents: u64) -> String {
    if extents == 1 { "1 extent".into() } else { format!("{extents} extents") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_lone_note_names_its_file() {
        let mut report = FileReport::new(Path::new("some file"));
        report.notes.push("why".into());
        let printed = |line: &str| {
            let cli = Cli::parse_from(line.split(' '));
            let mut out = Vec::new();
            text(&cli.verb, &report, Style { width: None, color: false, exact: false, verbose: false }, &mut out)
                .map(|()| String::from_utf8_lossy(&out).into_owned())
                .ok()
        };
        for line in ["daxfile pin x", "daxfile prepare x", "daxfile unpin x"] {
            assert_eq!(printed(line).as_deref(), Some("'some file': note: why\n"), "{line}");
        }
    }
}
