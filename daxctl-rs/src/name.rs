//! File names as text: safe on a terminal, and a shell reads them back.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Quotes a name as bash(1) would read it. What could steer a terminal, or is not UTF-8, is escaped.
#[must_use]
pub fn quote(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |c: char| c.is_alphanumeric() || "_./-+,:=@%^".contains(c);
    let shown = |c: char| plain(c) || c == ' ' || c.is_ascii_graphic();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Ok(text) if text.chars().all(|c| shown(c) && c != '\'') => format!("'{text}'"),
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
            quoted
        }
    }
}

fn escape(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Octal, because bash reads no more than three digits of it; hex would swallow what follows.
        let _ = write!(quoted, "\\{byte:03o}");
    }
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
}
