//! Trees over texts that are called a, b and so on.

use super::*;
use crate::config::{Report, Source, load};

/// `name` is the name of a text.
#[derive(Debug)]
struct Text(String);

impl Input for Text {
    type Data<'d> = (HashMap<&'static str, &'static str>, Runtime);

    fn from_proto(proto: &TypedExtensionConfig, _field: Field<'_>) -> Option<Text> {
        let TypedExtensionConfig { name, typed_config: _typed_config } = proto;
        Some(Text(name.clone()))
    }

    fn read<'d>(&'d self, (texts, _): &'d Self::Data<'_>) -> Option<Cow<'d, [u8]>> {
        texts.get(self.0.as_str()).map(|text| text.as_bytes().into())
    }

    fn runtime<'d>((_, runtime): &'d Self::Data<'_>) -> &'d Runtime {
        runtime
    }
}

fn tree(yaml: &str, keep_matching: KeepMatching) -> Result<MatchTree<Text, String>, Vec<String>> {
    let report = Report::new();
    let proto = load(&Source::new("x.yaml", yaml), &report).unwrap_or_default();
    let mut name = |action: &TypedExtensionConfig, _: Field<'_>| Some(action.name.clone());
    let tree = MatchTree::from_proto(&proto, Field::root(&report), keep_matching, &mut name);
    let problems: Vec<_> = report.into_problems().iter().map(ToString::to_string).collect();
    tree.filter(|_| problems.is_empty()).ok_or(problems)
}

fn find(tree: &MatchTree<Text, String>, texts: &[(&'static str, &'static str)]) -> String {
    let data = (texts.iter().copied().collect(), Runtime::default());
    tree.find(&data).map_or("-", String::as_str).to_owned()
}

/// An input, and an action by its name.
const ANY: &str = "typed_config: {'@type': type.googleapis.com/google.protobuf.Empty}";

fn written(yaml: &str) -> String {
    yaml.replace("ANY", ANY)
}

#[test]
fn lists_of_predicates() {
    let yaml = written(
        "
matcher_list:
  matchers:
  - predicate: {single_predicate: {input: {name: a, ANY}, value_match: {exact: x}}}
    on_match: {action: {name: exact, ANY}}
  - predicate:
      and_matcher:
        predicate:
        - {single_predicate: {input: {name: a, ANY}, value_match: {prefix: YE, ignore_case: true}}}
        - {not_matcher: {single_predicate: {input: {name: b, ANY}, value_match: {contains: 'no'}}}}
    on_match: {action: {name: both, ANY}}
  - predicate:
      or_matcher:
        predicate:
        - {single_predicate: {input: {name: a, ANY}, value_match: {suffix: z}}}
        - {single_predicate: {input: {name: b, ANY}, value_match: {safe_regex: {google_re2: {}, regex: '[0-9]+'}}}}
    on_match:
      matcher:
        matcher_tree: {input: {name: c, ANY}, exact_match_map: {map: {one: {action: {name: nested, ANY}}}}}
  - predicate: {single_predicate: {input: {name: b, ANY}, value_match: {exact: '7'}}}
    on_match: {action: {name: later, ANY}}
on_no_match: {action: {name: none, ANY}}
",
    );
    let tree = tree(&yaml, KeepMatching::Refused).unwrap();
    for (texts, expected) in [
        (&[("a", "x")][..], "exact"),
        (&[("a", "yes")], "both"),
        (&[("a", "yes"), ("b", "no")], "none"),
        (&[("a", "z"), ("c", "one")], "nested"),
        (&[("b", "7"), ("c", "two")], "later"),
        (&[("b", "8")], "none"),
        (&[], "none"),
    ] {
        assert_eq!(find(&tree, texts), expected, "{texts:?}");
    }
}

#[test]
fn maps() {
    let yaml = written(
        "
matcher_tree:
  input: {name: a, ANY}
  prefix_match_map:
    map:
      /a: {action: {name: short, ANY}}
      /a/b: {matcher: {matcher_tree: {input: {name: b, ANY}, exact_match_map: {map: {x: {action: {name: long, ANY}}}}}}}
      /ab: {action: {name: other, ANY}}
",
    );
    let tree = tree(&yaml, KeepMatching::Refused).unwrap();
    for (texts, expected) in [
        (&[("a", "/a/b/c"), ("b", "x")][..], "long"),
        (&[("a", "/a/b/c"), ("b", "y")], "short"),
        (&[("a", "/a")], "short"),
        (&[("a", "/abc")], "other"),
        (&[("a", "/b")], "-"),
        (&[], "-"),
    ] {
        assert_eq!(find(&tree, texts), expected, "{texts:?}");
    }
}

#[test]
fn a_match_may_let_the_search_go_on() {
    let yaml = written(
        "
matcher_list:
  matchers:
  - predicate: {single_predicate: {input: {name: a, ANY}, value_match: {prefix: x}}}
    on_match: {keep_matching: true, action: {name: first, ANY}}
  - predicate: {single_predicate: {input: {name: a, ANY}, value_match: {prefix: xy}}}
    on_match: {action: {name: second, ANY}}
",
    );
    let allowed = tree(&yaml, KeepMatching::Allowed).unwrap();
    assert_eq!(find(&allowed, &[("a", "xyz")]), "second");
    assert_eq!(find(&allowed, &[("a", "x")]), "-");
    assert_eq!(
        tree(&yaml, KeepMatching::Refused).unwrap_err(),
        ["matcher_list.matchers[0].on_match.keep_matching: keep_matching is not supported in this context"]
    );
}

#[test]
fn addresses_and_shares() {
    let yaml = written(
        "
matcher_list:
  matchers:
  - predicate:
      single_predicate:
        input: {name: ip, ANY}
        custom_match:
          name: ip
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip
            stat_prefix: x
            cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: '::1', prefix_len: 128}]
    on_match: {action: {name: inside, ANY}}
  - predicate:
      single_predicate:
        input: {name: user, ANY}
        custom_match:
          name: share
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing
            threshold: 5
            modulo: 10
    on_match: {action: {name: half, ANY}}
",
    );
    let tree = tree(&yaml, KeepMatching::Refused).unwrap();
    assert_eq!(find(&tree, &[("ip", "10.1.2.3")]), "inside");
    assert_eq!(find(&tree, &[("ip", "::1")]), "inside");
    assert_eq!(find(&tree, &[("ip", "11.1.2.3")]), "-");
    assert_eq!(find(&tree, &[("ip", "nonsense")]), "-");
    // The hashes end in 5 and in 9, in decimal.
    assert_eq!(find(&tree, &[("user", "a")]), "half");
    assert_eq!(find(&tree, &[("user", "abc")]), "half");
}

#[test]
fn ranges_of_addresses() {
    let yaml = written(
        "
matcher_tree:
  input: {name: ip, ANY}
  custom_match:
    name: ranges
    typed_config:
      '@type': type.googleapis.com/xds.type.matcher.v3.IPMatcher
      range_matchers:
      - ranges: [{address_prefix: 0.0.0.0}, {address_prefix: '::'}]
        on_match: {action: {name: any, ANY}}
      - ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]
        exclusive: true
        on_match: {action: {name: ten, ANY}}
      - ranges: [{address_prefix: 10.1.0.0, prefix_len: 16}]
        on_match: {matcher: {matcher_tree: {input: {name: a, ANY}, exact_match_map: {map: {x: {action: {name: x, ANY}}}}}}}
      - ranges: [{address_prefix: 10.1.2.0, prefix_len: 24}]
        on_match: {keep_matching: true, action: {name: kept, ANY}}
on_no_match: {action: {name: none, ANY}}
",
    );
    let tree = tree(&yaml, KeepMatching::Allowed).unwrap();
    for (texts, expected) in [
        (&[("ip", "1.2.3.4")][..], "any"),
        (&[("ip", "::1")], "any"),
        (&[("ip", "10.2.3.4")], "ten"),
        (&[("ip", "10.1.3.4"), ("a", "x")], "x"),
        (&[("ip", "10.1.3.4")], "any"),
        (&[("ip", "10.1.2.4"), ("a", "x")], "x"),
        (&[("ip", "nonsense")], "none"),
        (&[], "none"),
    ] {
        assert_eq!(find(&tree, texts), expected, "{texts:?}");
    }
}

#[test]
fn domains() {
    let names = |list: &str| {
        let yaml = "
matcher_tree:
  input: {name: host, ANY}
  custom_match:
    name: domains
    typed_config:
      '@type': type.googleapis.com/xds.type.matcher.v3.ServerNameMatcher
      domain_matchers:
      - {domains: [LIST], on_match: {action: {name: any, ANY}}}
      - {domains: ['*.example.com'], on_match: {action: {name: suffix, ANY}}}
      - domains: [www.example.com]
        on_match: {matcher: {matcher_tree: {input: {name: a, ANY}, exact_match_map: {map: {x: {action: {name: x, ANY}}}}}}}
";
        tree(&written(&yaml.replace("LIST", list)), KeepMatching::Refused)
    };
    let tree = names("'*', '*.com'").unwrap();
    for (texts, expected) in [
        (&[("host", "www.example.com"), ("a", "x")][..], "x"),
        (&[("host", "www.example.com")], "suffix"),
        (&[("host", "a.b.example.com")], "suffix"),
        (&[("host", "example.com")], "any"),
        (&[("host", "WWW.example.org")], "any"),
        (&[("host", "")], "-"),
        (&[], "-"),
    ] {
        assert_eq!(find(&tree, texts), expected, "{texts:?}");
    }
    for (list, problem) in [
        ("''", "Empty domain in ServerNameMatcher"),
        ("a, a", "Duplicate domain in ServerNameMatcher: a"),
        ("'*a'", "Invalid wildcard domain format: *a. Only '*' and '*.domain' patterns are supported"),
        ("'*.a.*'", "Invalid wildcard domain format: *.a.*. Multiple wildcards are not supported"),
    ] {
        let problems = names(list).unwrap_err();
        assert!(problems[0].ends_with(problem), "{problems:?}");
    }
}
