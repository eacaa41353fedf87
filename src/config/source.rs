//! The text of a document and where it came from.

use std::io::{self, Read};
use std::path::Path;

/// A YAML or JSON document with the name that errors call it by.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// A document that is at hand, such as the argument of `--config-yaml`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        let mut text = text.into();
        // A byte order mark would move the first line by a column, and YAML counts columns.
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Source { name: name.into(), text }
    }

    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> io::Result<Source> {
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            return Ok(Source::new("<stdin>", text));
        }
        Ok(Source::new(path.display().to_string(), std::fs::read_to_string(path)?))
    }

    /// What errors call the document: the path of its file as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The document.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_text() {
        assert_eq!(Source::new("x.yaml", "\u{feff}a: 1").text(), "a: 1");
    }
}
