//! Finds where one kernel function calls another: the offsets of call instructions, at which kprobes can attach. Only
//! at the call instruction does a processor register hold the value that the caller has just computed.
//!
//! This module reads the kernel's text from /proc/kcore. The kernel itself checks that an instruction begins where a
//! kprobe is to attach (`can_probe()` in `arch/x86/kernel/kprobes/core.c`), and so rejects bytes that only look like a
//! call.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result, ResultExt};
use crate::status::Status;

/// Longer than any of the functions used here.
const LONGEST: u64 = 1 << 16;

/// Returns the offsets in a function at which it calls another one.
///
/// # Errors
/// An error of reading /proc/kallsyms or /proc/kcore; status 3 if these do not show the functions.
pub(super) fn find(caller: &str, callee: &str) -> Result<Vec<u64>> {
    let ([caller, callee], names) = (place([caller, callee])?, [caller, callee]);
    let untold = |name| Error::new(Status::Unable, format!("/proc/kallsyms does not show the address of {name}"));
    let caller = caller.ok_or_else(|| untold(names[0]))?;
    let callee = callee.ok_or_else(|| untold(names[1]))?;
    let text = read(caller.clone())?;
    Ok(calls(&text, caller.start, callee.start))
}

/// Finds the addresses of functions of the kernel itself. Without CAP_SYSLOG all addresses are 0.
fn place<const N: usize>(names: [&str; N]) -> Result<[Option<Range<u64>>; N]> {
    let symbols = BufReader::new(File::open("/proc/kallsyms").call("open(/proc/kallsyms)")?);
    let mut found = [const { None }; N];
    let mut last: Vec<usize> = Vec::new();
    for line in symbols.lines() {
        let line = line.call("read(/proc/kallsyms)")?;
        let mut columns = line.split_ascii_whitespace();
        let (address, _, name) = (columns.next(), columns.next(), columns.next().unwrap_or_default());
        let address = address.and_then(|address| u64::from_str_radix(address, 16).ok()).filter(|address| *address != 0);
        let Some(address) = address else { continue };
        // The symbols are sorted by address: each one ends the one before.
        if !last.is_empty() && columns.next().is_none() {
            last.retain(|index| {
                let start = found[*index].as_ref().map_or(0, |range: &Range<u64>| range.start);
                found[*index] = Some(start..address.min(start + LONGEST));
                start == address
            });
        }
        if let Some(index) = names.iter().position(|wanted| *wanted == name) {
            found[index] = Some(address..address);
            last.push(index);
        }
        if last.is_empty() && found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found)
}

/// Reads kernel memory. /proc/kcore is an ELF file whose segments are mapped where the kernel has them.
fn read(addresses: Range<u64>) -> Result<Vec<u8>> {
    const CALL: &str = "read(/proc/kcore)";
    let core = File::open("/proc/kcore").call("open(/proc/kcore)")?;
    let mut head = [0; 64];
    core.read_exact_at(&mut head, 0).call(CALL)?;
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
    };
    let half = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (table, size, count) = (number(&head, 32), half(54), half(56));
    for index in 0..count {
        let mut segment = [0; 56];
        core.read_exact_at(&mut segment, table + index * size).call(CALL)?;
        let (offset, start, length) = (number(&segment, 8), number(&segment, 16), number(&segment, 32));
        if addresses.start >= start && addresses.end - start <= length {
            let mut text = vec![0; usize::try_from(addresses.end - addresses.start).unwrap_or(0)];
            core.read_exact_at(&mut text, offset + (addresses.start - start)).call(CALL)?;
            return Ok(text);
        }
    }
    Err(Error::new(Status::Unable, "/proc/kcore does not have the kernel's text"))
}

/// `call rel32`. A kprobe that is attached there already has put int3 over the first byte.
#[cfg(target_arch = "x86_64")]
fn calls(text: &[u8], start: u64, callee: u64) -> Vec<u64> {
    let is_call = |(at, bytes): (usize, &[u8])| {
        let [0xe8 | 0xcc, target @ ..] = <[u8; 5]>::try_from(bytes).ok()? else { return None };
        let next = start.wrapping_add(at as u64 + 5);
        (next.wrapping_add_signed(i32::from_le_bytes(target).into()) == callee).then_some(at as u64)
    };
    text.windows(5).enumerate().filter_map(is_call).collect()
}

/// `bl imm26`
#[cfg(target_arch = "aarch64")]
fn calls(text: &[u8], start: u64, callee: u64) -> Vec<u64> {
    let is_call = |(index, bytes): (usize, &[u8])| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        let words = i64::from((word << 6).cast_signed() >> 6);
        let at = index as u64 * 4;
        (word >> 26 == 0b10_0101 && start.wrapping_add(at).wrapping_add_signed(words * 4) == callee).then_some(at)
    };
    text.chunks_exact(4).enumerate().filter_map(is_call).collect()
}
