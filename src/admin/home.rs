//! The list of endpoints, as text and as a page with links and forms.

use std::fmt::Write;

use super::{
    ENDPOINTS,
    endpoint::{Answer, Changes, Endpoint, Parameter},
};

/// The list of endpoints as `/help` prints it.
pub(super) fn help() -> String {
    let mut text = String::from("admin commands are:\n");
    for endpoint in ENDPOINTS {
        let method = if endpoint.changes == Changes::Always { " (POST)" } else { "" };
        let _ = writeln!(text, "  {}{method}: {}", endpoint.path, endpoint.help);
        for Parameter { name, help, values } in endpoint.parameters {
            let _ = write!(text, "      {name}: {help}");
            let _ = if values.is_empty() { writeln!(text) } else { writeln!(text, "; One of ({})", values.join(", ")) };
        }
    }
    text
}

const HEAD: &str = "<!DOCTYPE html>
<html lang='en'>
<head>
<meta charset='utf-8'>
<title>Portreeve Admin</title>
<style>
body { font-family: sans-serif; margin: 2em; }
table { border-collapse: collapse; }
td { padding: .3em 1em .3em 0; vertical-align: top; }
tr.endpoint { border-top: 1px solid #ccc; }
td.parameter { padding-left: 2em; }
</style>
</head>
<body>
<h1>Portreeve Admin</h1>
<table>
";

/// The home page: endpoints that only show something are links, those with parameters are forms.
pub(super) fn page() -> Answer {
    let mut html = String::from(HEAD);
    for endpoint in ENDPOINTS {
        write_endpoint(&mut html, endpoint);
    }
    html.push_str("</table>\n</body>\n</html>\n");
    Answer::html(html)
}

/// Names, help texts and values are constants of this crate and hold no `<`, `&` or quotes, except `<` in help texts.
fn write_endpoint(html: &mut String, Endpoint { path, help, parameters, changes, .. }: &Endpoint) {
    let help = help.replace('<', "&lt;");
    let control = if *changes == Changes::Never && parameters.is_empty() {
        format!("<a href='{path}'>{path}</a>")
    } else {
        let method = if *changes == Changes::Never { "get" } else { "post" };
        format!("<form id='{path}' action='{path}' method='{method}'><button>{path}</button></form>")
    };
    let _ = writeln!(html, "<tr class='endpoint'><td>{control}</td><td>{help}</td></tr>");
    for Parameter { name, help, values } in *parameters {
        let help = help.replace('<', "&lt;");
        let input = if values.is_empty() {
            format!("<input name='{name}' form='{path}'>")
        } else {
            let options = values.join("</option><option>");
            format!("<select name='{name}' form='{path}'><option></option><option>{options}</option></select>")
        };
        let _ = writeln!(html, "<tr><td class='parameter'><label>{name} {input}</label></td><td>{help}</td></tr>");
    }
}
