//! `%START_TIME(FORMAT)%`: strftime formats, compiled once, printed without allocation.
//!
//! The specifiers are those of the C++ `put_time`, and Envoy's own `%s`, `%f`, `%1f` to `%9f`, `%E3S`, `%E*S` and `%Ez`. What is no
//! specifier prints as it is written.

use std::io::Write;
use std::time::SystemTime;

use time::{OffsetDateTime, UtcOffset};

/// Whose clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Coordinated universal time.
    Utc,
    /// The machine's time zone.
    Local,
}

/// A compiled time format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat {
    zone: Zone,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// A specifier that stands for one value, by its letter.
    Field(char),
    /// Digits of the second's fraction.
    Fraction(u8),
    /// Seconds with this many digits after the point.
    SecondsWithFraction(u8),
    /// Seconds with nanoseconds, without trailing zeros, point included (`%E*S`).
    ExactSeconds,
    /// The offset with a colon (`%Ez`).
    OffsetWithColon,
}

/// Letters of [`Piece::Field`].
const FIELDS: &str = "YCyGgmdeHIMSjuwUWVaAbBpZzs";

/// Specifiers that are short for others.
const SHORTHANDS: &[(char, &str)] = &[
    ('T', "%H:%M:%S"),
    ('X', "%H:%M:%S"),
    ('R', "%H:%M"),
    ('r', "%I:%M:%S %p"),
    ('F', "%Y-%m-%d"),
    ('D', "%m/%d/%y"),
    ('x', "%m/%d/%y"),
    ('c', "%a %b %e %H:%M:%S %Y"),
    ('h', "%b"),
];

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl TimeFormat {
    /// Envoy's format when none is given: `2006-01-02T15:04:05.000Z`, with the offset instead of `Z` in local time.
    #[must_use]
    pub fn iso(zone: Zone) -> TimeFormat {
        let text = match zone {
            Zone::Utc => "%Y-%m-%dT%H:%M:%E3SZ",
            Zone::Local => "%Y-%m-%dT%H:%M:%E3S%z",
        };
        TimeFormat::parse(text, zone).expect("invariant: the formats above are valid")
    }

    /// Compiles a format.
    ///
    /// # Errors
    /// It would print a new line.
    pub fn parse(text: &str, zone: Zone) -> Result<TimeFormat, NewLine> {
        let mut format = TimeFormat { zone, pieces: Vec::new() };
        format.append(text)?;
        Ok(format)
    }

    fn append(&mut self, text: &str) -> Result<(), NewLine> {
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            self.literal(&rest[..at]);
            let specifier = &rest[at + 1..];
            if specifier.starts_with('n') {
                return Err(NewLine);
            }
            let (piece, length) = specifier_at(specifier).unwrap_or((Specifier::Literal("%"), 0));
            match piece {
                Specifier::Piece(piece) => self.pieces.push(piece),
                Specifier::Literal(text) => self.literal(text),
                Specifier::Shorthand(long) => self.append(long)?,
            }
            rest = &specifier[length..];
        }
        self.literal(rest);
        Ok(())
    }

    fn literal(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Literal(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.pieces.push(Piece::Literal(text.to_owned())),
        }
    }

    /// Appends `time` to `out`.
    pub fn render(&self, time: SystemTime, out: &mut Vec<u8>) {
        let mut moment = OffsetDateTime::from(time);
        if self.zone == Zone::Local {
            moment = moment.to_offset(UtcOffset::local_offset_at(moment).unwrap_or(UtcOffset::UTC));
        }
        for piece in &self.pieces {
            // Writing into a `Vec` cannot fail.
            let _ = piece.render(moment, self.zone, out);
        }
    }
}

enum Specifier {
    Piece(Piece),
    Literal(&'static str),
    Shorthand(&'static str),
}

/// The specifier that `text` starts with (behind its `%`), and its length.
fn specifier_at(text: &str) -> Option<(Specifier, usize)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let second = chars.next();
    Some(match (first, second) {
        ('%', _) => (Specifier::Literal("%"), 1),
        ('t', _) => (Specifier::Literal("\t"), 1),
        ('f', _) => (Specifier::Piece(Piece::Fraction(9)), 1),
        ('1'..='9', Some('f')) => (Specifier::Piece(Piece::Fraction(digit(first)?)), 2),
        ('E', Some('z')) => (Specifier::Piece(Piece::OffsetWithColon), 2),
        ('E', Some('*')) if chars.next() == Some('S') => (Specifier::Piece(Piece::ExactSeconds), 3),
        ('E', Some(digits @ '1'..='9')) if chars.next() == Some('S') => {
            (Specifier::Piece(Piece::SecondsWithFraction(digit(digits)?)), 3)
        }
        (field, _) if FIELDS.contains(field) => (Specifier::Piece(Piece::Field(field)), 1),
        (short, _) => {
            let (_, long) = SHORTHANDS.iter().find(|(letter, _)| *letter == short)?;
            (Specifier::Shorthand(long), 1)
        }
    })
}

fn digit(char: char) -> Option<u8> {
    char.to_digit(10).and_then(|digit| u8::try_from(digit).ok())
}

impl Piece {
    fn render(&self, moment: OffsetDateTime, zone: Zone, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Piece::Literal(text) => out.write_all(text.as_bytes()),
            Piece::Field(field) => render_field(*field, moment, zone, out),
            Piece::Fraction(digits) => render_fraction(moment, *digits, out),
            Piece::SecondsWithFraction(digits) => {
                write!(out, "{:02}.", moment.second())?;
                render_fraction(moment, *digits, out)
            }
            Piece::OffsetWithColon => {
                let (hours, minutes, _) = moment.offset().as_hms();
                let sign = if moment.offset().is_negative() { '-' } else { '+' };
                write!(out, "{sign}{:02}:{:02}", hours.abs(), minutes.abs())
            }
            Piece::ExactSeconds => {
                write!(out, "{:02}.{:09}", moment.second(), moment.nanosecond())?;
                while out.last() == Some(&b'0') {
                    out.pop();
                }
                if out.last() == Some(&b'.') {
                    out.pop();
                }
                Ok(())
            }
        }
    }
}

fn render_fraction(moment: OffsetDateTime, digits: u8, out: &mut Vec<u8>) -> std::io::Result<()> {
    let value = moment.nanosecond() / 10_u32.pow(9 - u32::from(digits));
    write!(out, "{value:0width$}", width = usize::from(digits))
}

fn render_field(field: char, moment: OffsetDateTime, zone: Zone, out: &mut Vec<u8>) -> std::io::Result<()> {
    let weekday = moment.weekday();
    let day_name = DAYS[usize::from(weekday.number_days_from_monday())];
    let month_name = MONTHS[usize::from(u8::from(moment.month()) - 1)];
    let hour12 = match moment.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    match field {
        'Y' => write!(out, "{:04}", moment.year()),
        'C' => write!(out, "{:02}", moment.year().div_euclid(100)),
        'y' => write!(out, "{:02}", moment.year().rem_euclid(100)),
        'G' => write!(out, "{:04}", moment.to_iso_week_date().0),
        'g' => write!(out, "{:02}", moment.to_iso_week_date().0.rem_euclid(100)),
        'm' => write!(out, "{:02}", u8::from(moment.month())),
        'd' => write!(out, "{:02}", moment.day()),
        'e' => write!(out, "{:2}", moment.day()),
        'H' => write!(out, "{:02}", moment.hour()),
        'I' => write!(out, "{hour12:02}"),
        'M' => write!(out, "{:02}", moment.minute()),
        'S' => write!(out, "{:02}", moment.second()),
        'j' => write!(out, "{:03}", moment.ordinal()),
        'u' => write!(out, "{}", weekday.number_from_monday()),
        'w' => write!(out, "{}", weekday.number_days_from_sunday()),
        'U' => write!(out, "{:02}", moment.sunday_based_week()),
        'W' => write!(out, "{:02}", moment.monday_based_week()),
        'V' => write!(out, "{:02}", moment.iso_week()),
        'a' => out.write_all(&day_name.as_bytes()[..3]),
        'A' => out.write_all(day_name.as_bytes()),
        'b' => out.write_all(&month_name.as_bytes()[..3]),
        'B' => out.write_all(month_name.as_bytes()),
        'p' => out.write_all(if moment.hour() < 12 { b"AM" } else { b"PM" }),
        'Z' if zone == Zone::Utc => out.write_all(b"UTC"),
        's' => write!(out, "{}", moment.unix_timestamp()),
        _ => {
            let minutes = moment.offset().whole_minutes();
            let sign = if minutes < 0 { '-' } else { '+' };
            write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
    }
}

/// A time format would print a new line, and so more than one line of a log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time cannot hold a new line")]
pub struct NewLine;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn render(format: &str) -> String {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_005, 120_000_789);
        TimeFormat::parse(format, Zone::Utc).unwrap().render(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_is_iso_8601_with_milliseconds() {
        let mut out = Vec::new();
        TimeFormat::iso(Zone::Utc).render(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_005_120), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "2023-11-14T22:13:25.120Z");
    }

    #[test]
    fn specifiers_of_put_time() {
        assert_eq!(render("%Y/%m/%dT%H:%M:%S%z %s"), "2023/11/14T22:13:25+0000 1700000005");
        assert_eq!(render("%a %A %b %B %e %j %I%p %y"), "Tue Tuesday Nov November 14 318 10PM 23");
        assert_eq!(render("%F %T|%D|%R|%c|100%%"), "2023-11-14 22:13:25|11/14/23|22:13|Tue Nov 14 22:13:25 2023|100%");
        assert_eq!(render("%G-W%V-%u %U %W %w %C %Z"), "2023-W46-2 46 46 2 20 UTC");
    }

    #[test]
    fn fractions_of_a_second() {
        assert_eq!(render("%f %1f %3f %6f %9f"), "120000789 1 120 120000 120000789");
        assert_eq!(render("%E3S %E6S %E*S"), "25.120 25.120000 25.120000789");
        assert_eq!(render("%s.%3f"), "1700000005.120");
    }

    #[test]
    fn what_is_no_specifier_prints_as_it_is() {
        assert_eq!(render("%Y %Q %10f %0f %3E %"), "2023 %Q %10f %0f %3E %");
        assert_eq!(render("%Ez"), "+00:00");
        assert_eq!(TimeFormat::parse("%Y%n", Zone::Utc), Err(NewLine));
    }
}
