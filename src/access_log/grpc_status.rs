//! `%GRPC_STATUS(STYLE)%`: the names of gRPC's status codes.

use std::io::Write;

use super::print::Printed;

/// How a status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `InvalidArgument`
    Camel,
    /// `INVALID_ARGUMENT`
    Snake,
    /// `3`
    Number,
}

/// By code.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl Style {
    /// The style that an argument names; none means names in camel case.
    #[must_use]
    pub fn parse(argument: &str) -> Option<Style> {
        match argument {
            "" | "CAMEL_STRING" => Some(Style::Camel),
            "SNAKE_STRING" => Some(Style::Snake),
            "NUMBER" => Some(Style::Number),
            _ => None,
        }
    }

    /// Appends a status. A code that gRPC does not define is shown as a number.
    pub fn print(self, status: Option<u32>, out: &mut Vec<u8>) -> Printed {
        let Some(status) = status else { return Printed::Absent };
        let names = usize::try_from(status).ok().and_then(|code| NAMES.get(code));
        match (self, names) {
            (Style::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
            (Style::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
            _ => {
                // Writing into a `Vec` cannot fail.
                let _ = write!(out, "{status}");
                return Printed::Number;
            }
        }
        Printed::Text
    }
}

#[cfg(test)]
mod tests {
    use super::{Printed, Style};

    #[test]
    fn every_style_of_a_status() {
        let print = |style: Style, status| {
            let mut out = Vec::new();
            let printed = style.print(status, &mut out);
            (printed, String::from_utf8(out).unwrap())
        };
        assert_eq!(print(Style::Camel, Some(3)), (Printed::Text, "InvalidArgument".into()));
        assert_eq!(print(Style::Snake, Some(1)), (Printed::Text, "CANCELLED".into()));
        assert_eq!(print(Style::Number, Some(0)), (Printed::Number, "0".into()));
        assert_eq!(print(Style::Camel, Some(99)), (Printed::Number, "99".into()));
        assert_eq!(print(Style::Camel, None), (Printed::Absent, String::new()));
    }
}
