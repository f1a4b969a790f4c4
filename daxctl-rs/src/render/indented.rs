//! Output indented to the right.

use std::io::{Result, Write};

/// Adds, after the end of every line, the indentation of an entry in an array of an object.
pub(super) struct Indented<W>(W);

impl<W: Write> Indented<W> {
    pub(super) fn new(out: W) -> Self {
        Indented(out)
    }
}

impl<W: Write> Write for Indented<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.0.write_all(line)?;
            if line.ends_with(b"\n") {
                self.0.write_all(b"    ")?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}
