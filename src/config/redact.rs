//! Keeps secrets out of errors: what a document says under names such as `private_key` is never repeated.

/// What the name of a secret ends with, without separators.
const SECRET_ENDINGS: [&str; 11] = [
    "accesskey",
    "apikey",
    "authorization",
    "inlinebytes",
    "inlinestring",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "token",
];

/// Whether values under this name, in any spelling, must not be shown.
pub(super) fn is_secret(name: &str) -> bool {
    let bare: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_ENDINGS.iter().any(|ending| bare.ends_with(ending))
}

/// The line that holds byte `at`, with what may be secret in it replaced.
pub(super) fn line(text: &str, start: usize, line: &str) -> String {
    const HIDDEN: &str = "<hidden>";
    if in_secret_block(text, start, line) {
        return format!("{}{HIDDEN}", indentation(line));
    }
    let mut visible = line.len();
    for (colon, _) in line.match_indices(':') {
        let name = line[..colon].trim_end_matches(['"', '\'', ' ']);
        let name = name.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).next();
        let has_value =
            !line[colon + 1..].trim_start().starts_with(['|', '>', '{', '#']) && !line[colon + 1..].trim().is_empty();
        if has_value && is_secret(name.unwrap_or_default()) {
            visible = colon + 1;
            break;
        }
    }
    for scheme in ["Bearer ", "Basic "] {
        if let Some(found) = line.find(scheme) {
            visible = visible.min(found + scheme.len() - 1);
        }
    }
    if visible == line.len() { line.to_owned() } else { format!("{} {HIDDEN}", &line[..visible]) }
}

/// Whether the line is part of a text over several lines that belongs to a secret name, or of a PEM key.
fn in_secret_block(text: &str, start: usize, line: &str) -> bool {
    /// Longer than any key.
    const LOOK_BACK: usize = 1 << 16;
    let before = &text[text.ceil_char_boundary(start.saturating_sub(LOOK_BACK))..start];
    let pem = before.rfind("-----BEGIN").filter(|begin| Some(*begin) > before.rfind("-----END"));
    let in_key =
        pem.is_some_and(|begin| before[begin..].lines().next().is_some_and(|first| first.contains("PRIVATE KEY")));
    if in_key || line.contains("PRIVATE KEY-----") {
        return true;
    }
    let depth = indentation(line).len();
    let parent = before.lines().rev().find(|above| !above.trim().is_empty() && indentation(above).len() < depth);
    parent.is_some_and(|parent| {
        let Some((name, value)) = parent.split_once(':') else { return false };
        matches!(value.trim_start().chars().next(), Some('|' | '>' | '"' | '\'')) && is_secret(name)
    })
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str, number: usize) -> String {
        let start = text.match_indices('\n').nth(number.wrapping_sub(1)).map_or(0, |(at, _)| at + 1);
        line(text, start, text[start..].lines().next().expect("a line"))
    }

    #[test]
    fn values_of_secret_names_are_hidden_in_any_style() {
        assert_eq!(redacted("  inline_string: \"abc\"", 0), "  inline_string: <hidden>");
        assert_eq!(redacted("{\"inlineString\": \"abc\", \"x\": 1}", 0), "{\"inlineString\": <hidden>");
        assert_eq!(redacted("  password: {inline_bytes: abc}", 0), "  password: {inline_bytes: <hidden>");
        assert_eq!(
            redacted("- {key: authorization, value: Bearer abc}", 0),
            "- {key: authorization, value: Bearer <hidden>"
        );
        assert_eq!(redacted("  token: abc", 0), "  token: <hidden>");
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        assert_eq!(redacted("  port_value: 80 # of token", 0), "  port_value: 80 # of token");
        assert_eq!(redacted("  max_tokens: 5", 0), "  max_tokens: 5");
        assert_eq!(redacted("  private_key: {filename: a}", 0), "  private_key: {filename: a}");
        assert_eq!(redacted("  private_key:", 0), "  private_key:");
        assert_eq!(redacted("  private_key:\n    filename: a.pem", 1), "    filename: a.pem");
    }

    #[test]
    fn names_may_follow_any_character() {
        assert_eq!(redacted("  caf\u{e9}: abc", 0), "  caf\u{e9}: abc");
        assert_eq!(redacted("  \u{e9}token: abc", 0), "  \u{e9}token: <hidden>");
    }

    #[test]
    fn blocks_of_secret_text_are_hidden() {
        let block = "key:\n  inline_string: |\n    -----BEGIN PRIVATE KEY-----\n    MIIabc\n    -----END PRIVATE KEY-----\n  x: 1";
        assert_eq!(redacted(block, 2), "    <hidden>");
        assert_eq!(redacted(block, 3), "    <hidden>");
        assert_eq!(redacted(block, 4), "    <hidden>");
        assert_eq!(redacted(block, 5), "  x: 1");
        let wrongly_indented = "key:\n  -----BEGIN RSA PRIVATE KEY-----\nMIIabc";
        assert_eq!(redacted(wrongly_indented, 2), "<hidden>");
    }
}
