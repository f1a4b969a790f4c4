//! Properties of the decoders for all input bytes: the fuzzer and the property tests check them.

use std::path::Path;

use allocation_counter::measure;
use daxfile::file::map::Run;
use daxfile::pin::drift::Comparison;
use daxfile::pin::manifest::{Entry, Manifest, ParseError};
use daxfile::pin::record::{DecodeError, Record, RecordedMap};
use daxfile::report::format_uuid;
use libdaxfile::fiemap::ExtentFlags;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The maximum number of bytes that one decoding may use at a time.
const MEMORY: u64 = 1 << 20;

/// Bytes of a record's checksum.
const CHECKSUM: usize = 8;

/// Decodes these bytes as they are, and again with their last bytes replaced by the checksum that the rest should have:
/// no mutation would find it.
pub(crate) fn record(bytes: &[u8]) {
    let _ = decode(bytes);
    let _ = decode(&sealed(bytes));
}

/// The same bytes, the checksum at their end made right.
pub(crate) fn sealed(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(CHECKSUM)];
    [body, &Sha256::digest(body)[..CHECKSUM]].concat()
}

/// Decodes a record. It must encode to the same bytes again, and a map must be comparable with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let mut decoded = None;
    let used = measure(|| decoded = Some(Record::decode(bytes))).bytes_max;
    assert!(used <= MEMORY, "{used} bytes to decode {}", bytes.len());
    let decoded = decoded.expect("measured");
    if let Ok(record) = &decoded {
        assert_eq!(record.encode(), bytes, "another record encodes to this");
        let used = measure(|| compare(record)).bytes_max;
        assert!(used <= MEMORY, "{used} bytes to compare with a record of {}", bytes.len());
    }
    decoded
}

/// Compares the recorded map with a map that begins and ends where a file can, and with itself.
fn compare(record: &Record) {
    let run = |logical, physical, length| Run { logical, physical, length, flags: ExtentFlags::empty() };
    let mut comparison = Comparison::new(&record.map, record.size);
    for run in [run(0, 1 << 20, 4096), run(8192, u64::MAX - 4096, 4096), run(i64::MAX as u64 - 4095, 1 << 40, 4096)] {
        comparison.push(&run);
    }
    let _ = comparison.finish();
    let RecordedMap::Runs(runs) = &record.map else { return };
    let mut comparison = Comparison::new(&record.map, record.size);
    for was in runs {
        let flags = if was.unwritten { ExtentFlags::UNWRITTEN } else { ExtentFlags::empty() };
        comparison.push(&Run { flags, ..run(was.logical, was.physical, was.length) });
    }
    assert_eq!(comparison.finish().changes, []);
}

/// Reads a manifest. An accepted manifest must read the same when it is written again, and lookups in it must be safe.
pub(crate) fn manifest(bytes: &[u8]) {
    let _ = parse(bytes);
}

/// Like [`manifest`], and returns the decoded manifest.
pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest, ParseError> {
    let mut parsed = None;
    let used = measure(|| parsed = Some(Manifest::parse(bytes))).bytes_max;
    assert!(used <= MEMORY, "{used} bytes to read {}", bytes.len());
    let parsed = parsed.expect("measured");
    match &parsed {
        Err(why) => {
            let length = why.to_string().len();
            assert!((1..1000).contains(&length), "{length} bytes of message");
        }
        Ok(manifest) => {
            let entries = manifest.entries();
            let again = Manifest::parse(written(entries).to_string().as_bytes()).expect("of the right form");
            assert_eq!(format!("{:?}", again.entries()), format!("{entries:?}"));
            let root = Some(Path::new("/root"));
            for (index, entry) in entries.iter().enumerate() {
                assert!(manifest.find(None, &entry.path, None).is_some_and(|found| found <= index));
                if entry.require_below_root(root).is_ok() {
                    assert!(entry.path_below(root).starts_with("/root"));
                }
            }
        }
    }
    parsed
}

/// A manifest of these entries.
pub(crate) fn written(entries: &[Entry]) -> Value {
    let files = entries.iter().map(|entry| {
        let name = entry.path.as_os_str().as_encoded_bytes();
        let path = match std::str::from_utf8(name) {
            Ok(text) => json!(text),
            Err(_) => json!({"bytes": base64(name)}),
        };
        let file = entry.identity.map(|identity| {
            let uuid = entry.uuid.map(format_uuid);
            let (inode, generation) = (identity.inode, identity.generation);
            json!({"inode": inode, "generation": generation, "filesystem_uuid": uuid, "size": entry.size})
        });
        let extents = entry.map.as_ref().map(|map| {
            let RecordedMap::Runs(runs) = map else { panic!("a manifest has whole maps") };
            let extent = |run: &daxfile::pin::record::Position| {
                let raw_flags = if run.unwritten { ExtentFlags::UNWRITTEN.bits() } else { 0 };
                json!({"logical": run.logical, "physical": run.physical, "length": run.length, "raw_flags": raw_flags})
            };
            runs.iter().map(extent).collect::<Value>()
        });
        json!({"path": path, "file": file, "extents": extents})
    });
    json!({"schema_version": 1, "files": files.collect::<Value>()})
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*group.get(at).unwrap_or(&0)));
        let digit = |at: usize| if at <= group.len() { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) } else { '=' };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}
