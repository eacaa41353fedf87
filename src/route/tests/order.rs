//! The index over paths finds what a walk over all routes finds.

use super::{get, name, routes};

/// Repeatable random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn path(&mut self) -> String {
        let letters = ["a", "b", "A", "/", "/", "ab", "."];
        let tail: String = (0..self.below(6)).map(|_| letters[self.below(letters.len())]).collect();
        format!("/{tail}")
    }
}

/// A route: its YAML, and by plain means which paths it accepts, and whether only with header `x`.
struct Sample {
    yaml: String,
    accepts: Accepts,
    needs_header: bool,
}

type Accepts = Box<dyn Fn(&str) -> bool>;

fn sample(random: &mut Random, number: usize) -> Sample {
    let text = random.path();
    let text = text.trim_end_matches('/').to_owned();
    let text = if text.is_empty() { "/".to_owned() } else { text };
    let needs_header = random.below(3) == 0;
    let ignore_case = random.below(4) == 0;
    let fold = move |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let wanted = fold(&text);
    let (specifier, accepts): (_, Accepts) = match random.below(4) {
        0 => (format!("path: '{text}'"), Box::new(move |path| fold(path) == wanted)),
        1 if text != "/" => (
            format!("path_separated_prefix: '{text}'"),
            Box::new(move |path| fold(path) == wanted || fold(path).starts_with(&format!("{wanted}/"))),
        ),
        2 => (format!("safe_regex: {{regex: '.*{}'}}", text.replace('.', r"\.")), {
            Box::new(move |path| path.ends_with(&text))
        }),
        _ => (format!("prefix: '{text}'"), Box::new(move |path| fold(path).starts_with(&wanted))),
    };
    let header = if needs_header { ", headers: [{name: x}]" } else { "" };
    let case = if ignore_case { ", case_sensitive: false" } else { "" };
    Sample {
        yaml: format!(
            "- {{name: '{number}', match: {{{specifier}{case}{header}}}, direct_response: {{status: 200}}}}\n"
        ),
        accepts,
        needs_header,
    }
}

#[test]
fn the_index_agrees_with_a_walk_over_all_routes() {
    let mut matched = 0;
    for seed in 1..=30 {
        let mut random = Random(seed << 32 | 0x9e37_79b9);
        let count = random.below(40);
        let samples: Vec<_> = (0..count).map(|number| sample(&mut random, number)).collect();
        let table = routes(&samples.iter().map(|sample| sample.yaml.as_str()).collect::<String>());
        for _ in 0..100 {
            let path = random.path();
            let has_header = random.below(2) == 0;
            let mut request = get(&path);
            if has_header {
                request.headers_mut().insert("x", "1".parse().unwrap());
            }
            let expected =
                samples.iter().position(|sample| (sample.accepts)(&path) && (has_header || !sample.needs_header));
            matched += usize::from(expected.is_some());
            let expected = expected.map_or("-".to_owned(), |number| number.to_string());
            assert_eq!(name(&table, &request), expected, "seed {seed}: {path} {has_header}");
        }
    }
    assert!(matched > 500, "{matched}");
}
