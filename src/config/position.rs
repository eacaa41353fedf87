//! Places in a text: bytes, and the lines and columns that people count from 1.

/// Where `part`, which must be lent from `text`, begins in it.
pub(super) fn within(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

/// The byte at a line and column, both counted from 1, columns in characters. A place beyond the text is its end.
pub(super) fn offset(text: &str, line: usize, column: usize) -> usize {
    let start = line_start(text, line);
    let rest = &text[start..];
    let end = rest.find('\n').unwrap_or(rest.len());
    let mut characters = rest[..end].char_indices().map(|(index, _)| index);
    start + characters.nth(column.saturating_sub(1)).unwrap_or(end)
}

fn line_start(text: &str, line: usize) -> usize {
    if line <= 1 {
        return 0;
    }
    text.match_indices('\n').nth(line - 2).map_or(text.len(), |(index, _)| index + 1)
}

/// Where the lines of a text begin.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Lines<'t> {
        let ends = text.match_indices('\n').map(|(index, _)| index + 1);
        Lines { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// The line and column, both counted from 1, of a byte.
    pub fn line_and_column(&self, at: usize) -> (usize, usize) {
        let at = self.text.floor_char_boundary(at);
        let line = self.starts.partition_point(|start| *start <= at);
        (line, self.text[self.starts[line - 1]..at].chars().count() + 1)
    }
}

/// The line, without its end, that holds a byte.
pub(super) fn line_at(text: &str, at: usize) -> &str {
    let at = text.floor_char_boundary(at);
    let start = text[..at].rfind('\n').map_or(0, |index| index + 1);
    let end = text[at..].find('\n').map_or(text.len(), |index| at + index);
    text[start..end].trim_end_matches('\r')
}

/// Where the value begins whose key ends at `key_end`: behind the colon, white space, comments, anchors and tags.
pub(super) fn of_value_after(text: &str, key_end: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = key_end;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' if at == key_end => at += 1,
            b':' | b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'#' => at += skip(text, at, |c| c == '\n'),
            b'&' | b'!' => at += skip(text, at, char::is_whitespace),
            _ => return at,
        }
    }
    key_end
}

fn skip(text: &str, at: usize, stop: impl Fn(char) -> bool) -> usize {
    text[at..].find(stop).unwrap_or(text.len() - at)
}

/// The plain scalar, such as a number, that begins at a byte.
pub(super) fn plain_scalar_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    &rest[..rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}')).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let text = "ab\né: x\n";
        let x = text.find('x').expect("there");
        assert_eq!(Lines::new(text).line_and_column(x), (2, 4));
        assert_eq!(offset(text, 2, 4), x);
        assert_eq!(line_at(text, x), "é: x");
        assert_eq!(Lines::new(text).line_and_column(0), (1, 1));
        assert_eq!(offset(text, 99, 1), text.len());
        assert_eq!(offset(text, 1, 99), 2);
        assert_eq!(line_at("a\r\nb", 0), "a");
    }

    #[test]
    fn a_value_begins_behind_all_that_belongs_to_its_key() {
        let text = "\"a\" : # note\n  &anchor !tag\n  1.50, b";
        let value = of_value_after(text, 2);
        assert_eq!(plain_scalar_at(text, value), "1.50");
    }
}
