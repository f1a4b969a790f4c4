//! Sizes as people write and read them.

use std::fmt::{self, Display, Formatter};

/// Reads a size as fallocate(1) does: `K`, `KiB`, `M`, `MiB` … are powers of 1024, `KB`, `MB` … powers of 1000.
///
/// ```
/// use daxfile::size::{format, parse};
///
/// assert_eq!(parse("64K"), Ok(65536));
/// assert_eq!(parse("64KB"), Ok(64000));
/// assert_eq!(format(65536, false).to_string(), "64 KiB");
/// assert!(parse("9EiB").is_err());
/// ```
///
/// # Errors
/// What is wrong with it, in words; a size above [`i64::MAX`], which no file can have, included.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number, such as 64MiB".to_owned())?;
    let (letter, base) = match suffix.to_ascii_uppercase().as_str() {
        "" | "B" => ("", 1),
        long if long.ends_with("IB") => (&suffix[..suffix.len() - 2], 1024),
        long if long.ends_with('B') => (&suffix[..suffix.len() - 1], 1000),
        _ => (suffix, 1024u64),
    };
    let power = match letter.to_ascii_uppercase().as_str() {
        "" if base == 1 => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return Err(format!("unknown suffix '{suffix}'; K, M, G, T, P, E, with iB or B")),
    };
    let bytes = base.checked_pow(power).and_then(|unit| number.checked_mul(unit));
    bytes.filter(|&bytes| i64::try_from(bytes).is_ok()).ok_or_else(|| "too large: above 8 EiB - 1".to_owned())
}

/// A size for people: exact where `exact`, else in the largest IEC unit that keeps two digits of it.
#[must_use]
pub fn format(bytes: u64, exact: bool) -> impl Display {
    Size { bytes, exact }
}

struct Size {
    bytes: u64,
    exact: bool,
}

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let Size { bytes, exact } = *self;
        if exact {
            return write!(f, "{bytes}");
        }
        let Some(power) = bytes.checked_ilog2().map(|log| log / 10).filter(|&power| power > 0) else {
            return write!(f, "{bytes} B");
        };
        let unit = UNITS[power as usize - 1];
        let rest = bytes % (1 << (10 * power));
        match (bytes >> (10 * power), (rest * 10) >> (10 * power)) {
            (whole, 0) => write!(f, "{whole} {unit}"),
            (whole, tenth) => write!(f, "{whole}.{tenth} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn suffixes_are_those_of_fallocate() {
        for (text, bytes) in [
            ("0", 0),
            ("4097", 4097),
            ("7B", 7),
            ("1K", 1024),
            ("1k", 1024),
            ("1KiB", 1024),
            ("1KB", 1000),
            ("3MiB", 3 << 20),
            ("3MB", 3_000_000),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
            ("1P", 1 << 50),
            ("7EiB", 7 << 60),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in
            ["", "K", "-1", "1.5K", "1X", "1iB", "1KiBB", "8E", "9223372036854775808", "99999999999P", "1 K", "0x10"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn formatting_keeps_what_a_person_needs() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 40) - 1, "1023.9 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(format(bytes, false).to_string(), text);
        }
        assert_eq!(format(1536, true).to_string(), "1536");
    }

    #[test]
    fn what_is_written_reads_back() {
        for power in 0..63 {
            let bytes = 1u64 << power;
            assert_eq!(parse(&format(bytes, false).to_string().replace(' ', "")), Ok(bytes));
            assert_eq!(parse(&format(bytes, true).to_string()), Ok(bytes));
        }
    }
}
