//! File names as text: safe on a terminal, where a shell reads them back; and as data.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Quotes a name so that bash(1) reads it back. Escapes bytes that could control a terminal or are not UTF-8.
///
/// ```
/// use daxfile::name::quote;
///
/// assert_eq!(quote("/srv/disk.img".as_ref()), "/srv/disk.img");
/// assert_eq!(quote("an\x1b[31mother".as_ref()), r"$'an\033[31mother'");
/// ```
#[must_use]
pub fn quote(path: &Path) -> Cow<'_, str> {
    let bytes = path.as_os_str().as_bytes();
    let plain = |c: char| c.is_alphanumeric() || "_./-+,:=@%^".contains(c);
    let shown = |c: char| plain(c) || c == ' ' || c.is_ascii_graphic();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(plain) => text.into(),
        Ok(text) if text.chars().all(|c| shown(c) && c != '\'') => format!("'{text}'").into(),
        _ => {
            let mut quoted = "$'".to_owned();
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '\n' => quoted.push_str("\\n"),
                        '\t' => quoted.push_str("\\t"),
                        '\'' | '\\' => quoted.extend(['\\', c]),
                        c if shown(c) => quoted.push(c),
                        c => escape(&mut quoted, c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                escape(&mut quoted, chunk.invalid());
            }
            quoted.push('\'');
            quoted.into()
        }
    }
}

/// Quotes a name for use as an argument in a shell, so that no command takes a leading dash for an option.
#[must_use]
pub fn for_shell(path: &Path) -> String {
    match path.as_os_str().as_bytes() {
        [b'-', ..] => quote(&Path::new(".").join(path)).into_owned(),
        _ => quote(path).into_owned(),
    }
}

fn escape(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Octal, because bash reads at most three digits; hex would swallow the characters that follow.
        let _ = write!(quoted, "\\{byte:03o}");
    }
}

/// Serialises a name for JSON: as a string, or as its bytes in base64 if it is not UTF-8.
pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(text) = path.to_str() {
        return text.serialize(serializer);
    }
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("bytes", &data_encoding::BASE64.encode(path.as_os_str().as_bytes()))?;
    map.end()
}

/// Like `serialize`, but `null` for no name.
pub(crate) fn serialize_some<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serialize(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// Undoes the octal escapes with which the kernel writes blanks and backslashes in the names of /proc (`seq_path()`).
pub(crate) fn unescape(name: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match octal {
            Some(digits) => {
                plain.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn bash_reads_back_every_name() {
        let names: [&[u8]; 9] = [
            b"plain.img",
            b"two words",
            b"it's",
            b"new\nline",
            b"\x1b[31mred",
            b"caf\xc3\xa9",
            b"not utf-8 \xff\xfe7",
            b"$(reboot) `x` \\ \"",
            "right-to-left \u{202e}gnp".as_bytes(),
        ];
        for name in names {
            let quoted = quote(Path::new(OsStr::from_bytes(name)));
            assert!(!quoted.chars().any(|c| c.is_control() || c == '\u{202e}'), "{quoted}");
            let output = std::process::Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output();
            assert_eq!(output.map(|output| output.stdout).unwrap_or_default(), name, "{quoted}");
        }
    }

    #[test]
    fn names_in_proc_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c\01"), OsStr::new(r"/a b\c\01"));
    }
}
