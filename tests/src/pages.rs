//! The parts of the manual pages that test programs write, each between two marks.

use std::path::PathBuf;

/// Major and minor version.
pub type Kernel = (u32, u32);

/// `6.18.44-something` is 6.18.
pub fn version(release: &str) -> Kernel {
    let mut numbers = release.trim().split(['.', '-', ',']).map(|number| number.parse().expect("a number"));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The version of the running kernel.
pub fn running_kernel() -> Kernel {
    version(&std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted"))
}

/// A kernel's version in words.
pub fn release((major, minor): Kernel) -> String {
    format!("{major}.{minor}")
}

/// Escapes text for roff, which prints a plain `-` as a hyphen.
pub fn escaped(text: &str) -> String {
    text.replace('-', "\\-")
}

/// A part of a page in `man`.
pub struct Written {
    /// The file's name.
    pub page: &'static str,
    /// The line before the part.
    pub begin: &'static str,
    /// The line after the part.
    pub end: &'static str,
}

impl Written {
    /// Reads the part.
    pub fn read(&self) -> String {
        let [_, written, _] = self.split();
        written
    }

    /// Replaces the part.
    pub fn write(&self, generated: &str) {
        let [before, _, after] = self.split();
        std::fs::write(self.path(), format!("{before}{}{generated}{}{after}", self.begin, self.end)).expect(self.page);
    }

    fn split(&self) -> [String; 3] {
        let text = std::fs::read_to_string(self.path()).expect(self.page);
        let (before, rest) = text.split_once(self.begin).expect("the mark before what is written");
        let (between, after) = rest.split_once(self.end).expect("the mark after what is written");
        [before, between, after].map(str::to_owned)
    }

    fn path(&self) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "../man", self.page].iter().collect()
    }
}
