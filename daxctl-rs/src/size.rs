//! Sizes as people write and read them.

use std::fmt::{self, Display, Formatter};

/// The reason why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No number at the beginning, or more digits after it.
    #[error("expected a number, such as 64MiB")]
    NotANumber,
    /// More than [`i64::MAX`] bytes.
    #[error("too large: above 8 EiB - 1")]
    TooLarge,
    /// A fraction of a number of bytes.
    #[error("a fraction takes a suffix: 1.5K")]
    FractionOfBytes,
    /// This text after the number.
    #[error("unknown suffix '{0}'; K, M, G, T, P, E, with iB or B")]
    UnknownSuffix(String),
}

/// Parses a size as fallocate(1) does: `K`, `KiB`, `M`, `MiB` … are powers of 1024, `KB`, `MB` … powers of 1000. A
/// number with such a suffix may have a fraction. `0x` begins a hexadecimal number, `0` an octal one.
///
/// ```
/// use daxfile::size::{format, parse};
///
/// assert_eq!(parse("64K"), Ok(65536));
/// assert_eq!(parse("64KB"), Ok(64000));
/// assert_eq!(parse("1.5G"), Ok(1610612736));
/// assert_eq!(parse("0x1000"), Ok(4096));
/// assert_eq!(format(65536, false).to_string(), "64 KiB");
/// assert!(parse("9EiB").is_err());
/// ```
///
/// # Errors
/// The reason why the text is not a size. A size above [`i64::MAX`], which no file can have, is an error.
pub fn parse(text: &str) -> Result<u64, ParseError> {
    let (radix, digits) = match text.get(..2) {
        Some("0x" | "0X") => (16, &text[2..]),
        Some(octal) if octal.starts_with('0') && octal.ends_with(|c: char| c.is_ascii_digit()) => (8, &text[1..]),
        _ => (10, text),
    };
    let (number, rest) = split_digits(digits, radix);
    // Refuses 08, which would otherwise be read as 0 with a strange suffix.
    if number.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(ParseError::NotANumber);
    }
    let number = u64::from_str_radix(number, radix).map_err(|_| ParseError::TooLarge)?;
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) if radix != 16 => split_digits(rest, 10),
        _ => ("", rest),
    };
    let unit = unit(suffix)?;
    if unit == 1 && rest.starts_with('.') {
        return Err(ParseError::FractionOfBytes);
    }
    let bytes = number.checked_mul(unit).and_then(|bytes| bytes.checked_add(part_of(unit, fraction)));
    bytes.filter(|&bytes| i64::try_from(bytes).is_ok()).ok_or(ParseError::TooLarge)
}

fn split_digits(text: &str, radix: u32) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len()))
}

/// The number of bytes that a suffix means.
fn unit(suffix: &str) -> Result<u64, ParseError> {
    let upper = suffix.to_ascii_uppercase();
    let (letter, base) = match upper.as_str() {
        "" | "B" => return Ok(1),
        long if long.ends_with("IB") => (&long[..long.len() - 2], 1024),
        long if long.ends_with('B') => (&long[..long.len() - 1], 1000),
        short => (short, 1024u64),
    };
    let power = ["K", "M", "G", "T", "P", "E"].iter().zip(1..).find(|(name, _)| **name == letter);
    power.and_then(|(_, power)| base.checked_pow(power)).ok_or_else(|| ParseError::UnknownSuffix(suffix.to_owned()))
}

/// The whole bytes in a decimal fraction of a unit. Digits beyond the nineteenth never amount to a byte.
fn part_of(unit: u64, fraction: &str) -> u64 {
    let digits = &fraction[..fraction.len().min(19)];
    let scale = 10u128.pow(u32::try_from(digits.len()).unwrap_or(0));
    let numerator: u128 = digits.parse().unwrap_or(0);
    u64::try_from(numerator * u128::from(unit) / scale).unwrap_or(0)
}

/// Formats a size for people: exactly if `exact`, else in the largest IEC unit that keeps two digits.
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
            ("1.5G", 3 << 29),
            ("1.5KB", 1500),
            ("0.1K", 102),
            ("1.K", 1024),
            ("0x1000", 4096),
            ("0x10K", 16384),
            ("0x1E", 30),
            ("010", 8),
            ("7.9999999999999999999EiB", (8 << 60) - 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in [
            "",
            "K",
            "-1",
            "1.5",
            "1.5B",
            "1,5K",
            ".5K",
            "1X",
            "1iB",
            "1KiBB",
            "8E",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999P",
            "1 K",
            "0x",
            "0x1.5K",
            "08",
            "1e3",
        ] {
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
    fn formatted_size_parses_back() {
        for power in 0..63 {
            let bytes = 1u64 << power;
            assert_eq!(parse(&format(bytes, false).to_string().replace(' ', "")), Ok(bytes));
            assert_eq!(parse(&format(bytes, true).to_string()), Ok(bytes));
        }
    }
}
