//! Files with eventful maps, made by a seeded generator out of commands of xfs_io(8).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::child::finish;
use crate::scratch::{Kind, Scratch, Xfs};
use crate::tools::{output, require, sh};

/// The environment variable that repeats a run.
const SEED: &str = "DAXFILE_SEED";

/// Pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `DAXFILE_SEED`, else by the clock. The seed is printed even where the test harness captures output.
    pub fn new(test: &str) -> Random {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|e| panic!("{SEED}={text}: {e}")),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
                u64::from(now.subsec_nanos()) ^ now.as_secs() << 30
            }
        };
        let _ = writeln!(std::io::stderr(), "{test}: {SEED}={seed}");
        Random(seed)
    }

    /// Returns another generator, independent of how much this one is used.
    pub fn fork(&self, number: u64) -> Random {
        let mut fork = Random(self.0 ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        fork.next();
        fork
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Noise.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(count).collect()
    }

    /// A number below this one.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// True so often in a hundred times.
    pub fn percent(&mut self, often: u64) -> bool {
        self.below(100) < often
    }
}

/// Blocks that a generated file spans at first, and at most.
const SPAN: u64 = 320;

/// A file, and all that was done to it.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Where it is.
    pub path: PathBuf,
    size: u64,
    done: Vec<String>,
}

impl Generated {
    /// A file that is still to be made.
    pub fn new(path: impl Into<PathBuf>) -> Generated {
        Generated { path: path.into(), size: 0, done: Vec::new() }
    }

    /// Does a number of random things to the file, reflinks from `peers` among them where the filesystem has reflinks.
    pub fn work(&mut self, scratch: &Scratch, random: &mut Random, peers: &[Generated], steps: u64) {
        let block = scratch.kind().block_size();
        let reflinks = matches!(scratch.kind(), Kind::Xfs(Xfs { reflink: true, .. }));
        let mut commands = Vec::new();
        if self.done.is_empty() {
            self.size = block * SPAN - random.below(block);
            commands.push(format!("truncate {}", self.size));
        }
        commands.extend((0..steps).map(|_| self.step(random, block, peers, reflinks)));
        self.xfs_io(commands);
    }

    /// Puts preallocated blocks behind the file's end.
    pub fn preallocate_past_eof(&mut self, scratch: &Scratch, random: &mut Random) {
        let block = scratch.kind().block_size();
        let offset = self.size.next_multiple_of(block) + block * random.below(3);
        self.xfs_io(vec![format!("falloc -k {offset} {}", block * (1 + random.below(8)))]);
    }

    /// One command that cannot fail. Every offset and length is a multiple of a block, except in writes and truncation.
    fn step(&mut self, random: &mut Random, block: u64, peers: &[Generated], reflinks: bool) -> String {
        let mut length = block * (1 + random.below(6));
        let mut offset = block * random.below(SPAN);
        let blocks = self.size / block;
        match random.below(100) {
            0..30 => {
                if random.percent(30) {
                    offset += random.below(block);
                    length -= random.below(block);
                }
                self.grow(offset + length);
                format!("pwrite -q {offset} {length}")
            }
            30..34 => {
                let offset = self.size;
                self.grow(offset + length);
                format!("pwrite -q {offset} {length}")
            }
            34..37 => "fsync".into(),
            37..47 => {
                self.grow(offset + length);
                format!("falloc {offset} {length}")
            }
            47..62 => format!("fpunch {offset} {length}"),
            62..72 => {
                self.grow(offset + length);
                format!("fzero {offset} {length}")
            }
            72..76 if blocks > 0 && self.size + length <= block * SPAN * 2 => {
                self.size += length;
                format!("finsert {} {length}", block * random.below(blocks))
            }
            76..80 if blocks > SPAN / 2 => {
                self.size -= length;
                format!("fcollapse {} {length}", block * random.below(blocks - length / block))
            }
            80..82 => {
                self.size = self.size.saturating_sub(random.below(8 * block)).max(block);
                format!("truncate {}", self.size)
            }
            _ => match peers.get(usize::try_from(random.below(peers.len() as u64)).expect("few")) {
                // Within one file the ranges could overlap.
                Some(peer) if reflinks && peer.size > length && peer.path != self.path => {
                    let from = block * random.below((peer.size - length) / block + 1);
                    self.grow(offset + length);
                    format!("reflink -q {} {from} {offset} {length}", peer.path.display())
                }
                _ => {
                    self.grow(offset + length);
                    format!("pwrite -q {offset} {length}")
                }
            },
        }
    }

    fn grow(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    fn xfs_io(&mut self, commands: Vec<String>) {
        require(&["xfs_io"]);
        let mut xfs_io = Command::new("xfs_io");
        xfs_io.arg("-f").args(commands.iter().flat_map(|command| ["-c", command])).arg(&self.path);
        self.done.extend(commands);
        let out = finish(&mut xfs_io);
        let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{said}\n{}", self.history());
        let size = std::fs::metadata(&self.path).expect("xfs_io made it").len();
        assert!(size == self.size, "{size} bytes, not {}\n{}", self.size, self.history());
    }

    /// The commands that made the file, for messages.
    pub fn history(&self) -> String {
        let mut text = format!("{} was made by xfs_io with", self.path.display());
        self.done.iter().for_each(|command| write!(text, "\n  {command}").expect("a string takes all"));
        text
    }
}

/// A file of 90,000 bytes with work for `prepare`: written, unwritten, a hole, a part of a block at the end; on XFS
/// shared as well, with NAME.shared; with blocks past EOF on request.
#[track_caller]
pub fn unprepared(scratch: &Scratch, name: &str, past_eof: bool) -> PathBuf {
    require(&["xfs_io"]);
    let path = scratch.path(name);
    let mut work =
        vec!["pwrite -q -S 7 0 40000", "falloc 40960 20480", "truncate 90000", "pwrite -q -S 9 69632 8192", "fsync"];
    if past_eof {
        work.push("falloc -k 131072 65536");
    }
    let shared = path.with_extension("shared");
    let clone = format!("reflink -q {} 0 4096 4096", shared.display());
    if matches!(scratch.kind(), Kind::Xfs(Xfs { reflink: true, .. })) {
        sh(format!("xfs_io -f -c 'pwrite -q -S 5 0 8192' -c fsync '{}'", shared.display()));
        work.push(&clone);
    }
    output(Command::new("xfs_io").arg("-f").args(work.iter().flat_map(|work| ["-c", work])).arg(&path));
    sh(format!("sync -f '{}'", path.display()));
    path
}

/// Paths of generated files, as arguments.
pub fn paths(files: &[Generated]) -> impl Iterator<Item = &Path> {
    files.iter().map(|file| file.path.as_path())
}
