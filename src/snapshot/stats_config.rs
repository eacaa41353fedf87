//! `stats_config` of a bootstrap: which stats are shown, what of their names is a label, the buckets of histograms.
//!
//! Stats are counted whatever it says; it decides what the admin interface shows of them.

use regex::Regex;

use crate::config::Field;
use crate::matcher::StringMatcher;
use crate::proto::metrics::stats_matcher::StatsMatcher as MatcherProto;
use crate::proto::metrics::tag_specifier::TagValue;
use crate::proto::metrics::{self, HistogramBucketSettings, StatsMatcher, TagSpecifier};
use crate::proto::{self, matcher::ListStringMatcher};
use crate::stats::{BUCKETS, Tagging};

/// How stats are shown.
#[derive(Debug, Clone, Default)]
pub struct StatsConfig {
    /// What is a label.
    pub tagging: Tagging,
    shown: Shown,
    buckets: Vec<(StringMatcher, Vec<f64>)>,
}

/// Which stats are shown.
#[derive(Debug, Clone, Default)]
enum Shown {
    #[default]
    All,
    None,
    Matching(Vec<StringMatcher>),
    NotMatching(Vec<StringMatcher>),
}

impl StatsConfig {
    /// Converts `stats_config` and reports what is wrong with it.
    pub(super) fn from_proto(proto: &metrics::StatsConfig, field: Field<'_>) -> StatsConfig {
        let metrics::StatsConfig {
            stats_tags,
            use_all_default_tags,
            stats_matcher,
            histogram_bucket_settings,
            allow_default_tag_overrides,
        } = proto;
        field.ignored(
            "allow_default_tag_overrides",
            allow_default_tag_overrides,
            "tags of the same name stand beside each other",
        );
        let mut tagging = Tagging::default();
        if use_all_default_tags.is_some_and(|all| !all.value) {
            tagging.only_defaults = Some(Vec::new());
        }
        let tags_field = field.key("stats_tags");
        for (i, tag) in stats_tags.iter().enumerate() {
            add_tag(&mut tagging, tag, tags_field.index(i));
        }
        let buckets_field = field.key("histogram_bucket_settings");
        let buckets = histogram_bucket_settings.iter().enumerate();
        StatsConfig {
            tagging,
            shown: stats_matcher.as_ref().map(|proto| shown(proto, field.key("stats_matcher"))).unwrap_or_default(),
            buckets: buckets.filter_map(|(i, settings)| buckets_of(settings, buckets_field.index(i))).collect(),
        }
    }

    /// Whether a stat is shown.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        let any = |matchers: &[StringMatcher]| matchers.iter().any(|matcher| matcher.matches(name.as_bytes()));
        match &self.shown {
            Shown::All => true,
            Shown::None => false,
            Shown::Matching(matchers) => any(matchers),
            Shown::NotMatching(matchers) => !any(matchers),
        }
    }

    /// The upper bounds of a histogram's buckets.
    #[must_use]
    pub fn buckets(&self, name: &str) -> &[f64] {
        let configured = self.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()));
        configured.map_or(&BUCKETS, |(_, buckets)| buckets)
    }
}

/// A tag without a value is one of Envoy's.
fn add_tag(tagging: &mut Tagging, tag: &TagSpecifier, field: Field<'_>) {
    let TagSpecifier { tag_name, tag_value } = tag;
    match tag_value {
        Some(TagValue::FixedValue(value)) => tagging.fixed.push((tag_name.clone(), value.clone())),
        Some(TagValue::Regex(pattern)) if !pattern.is_empty() => match Regex::new(pattern) {
            Ok(regex) => tagging.patterns.push((tag_name.clone(), regex)),
            Err(error) => field.key("regex").error(format!("invalid regular expression: {error}")),
        },
        Some(TagValue::Regex(_)) | None => {
            if let Some(wanted) = &mut tagging.only_defaults {
                wanted.push(tag_name.clone());
            }
        }
    }
}

fn shown(proto: &StatsMatcher, field: Field<'_>) -> Shown {
    let StatsMatcher { stats_matcher } = proto;
    match stats_matcher {
        Some(MatcherProto::RejectAll(true)) => Shown::None,
        Some(MatcherProto::RejectAll(false)) | None => Shown::All,
        Some(MatcherProto::ExclusionList(list)) => Shown::NotMatching(matchers(list, field.key("exclusion_list"))),
        Some(MatcherProto::InclusionList(list)) => Shown::Matching(matchers(list, field.key("inclusion_list"))),
    }
}

fn matchers(list: &ListStringMatcher, field: Field<'_>) -> Vec<StringMatcher> {
    let ListStringMatcher { patterns } = list;
    let field = field.key("patterns");
    let patterns = patterns.iter().enumerate();
    patterns.filter_map(|(i, pattern)| StringMatcher::from_proto(pattern, field.index(i))).collect()
}

fn buckets_of(settings: &HistogramBucketSettings, field: Field<'_>) -> Option<(StringMatcher, Vec<f64>)> {
    let HistogramBucketSettings { r#match, buckets, bins } = settings;
    let bins: &Option<proto::UInt32Value> = bins;
    field.ignored("bins", bins, "values are kept to two digits in any case");
    let matcher = StringMatcher::from_proto(field.required("match", r#match)?, field.key("match"))?;
    let mut buckets = buckets.clone();
    buckets.sort_by(f64::total_cmp);
    buckets.dedup();
    if buckets.is_empty() { None } else { Some((matcher, buckets)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    fn config(yaml: &str) -> (StatsConfig, Vec<String>) {
        let report = Report::new();
        let proto = load(&Source::new("x.yaml", yaml), &report).unwrap_or_default();
        let config = StatsConfig::from_proto(&proto, Field::root(&report));
        (config, report.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_decide_what_is_shown() {
        for (yaml, shown) in [
            ("{}", [true, true]),
            ("stats_matcher: {reject_all: true}", [false, false]),
            ("stats_matcher: {inclusion_list: {patterns: [{prefix: cluster.}]}}", [true, false]),
            ("stats_matcher: {exclusion_list: {patterns: [{suffix: .a}]}}", [false, true]),
        ] {
            let (config, problems) = config(yaml);
            assert_eq!(([config.shows("cluster.a"), config.shows("server.live")], problems), (shown, vec![]), "{yaml}");
        }
    }

    #[test]
    fn tags_and_buckets_are_read() {
        let (config, problems) = config(
            "
use_all_default_tags: false
stats_tags: [{tag_name: a, regex: '^x((y))'}, {tag_name: b, fixed_value: c}, {tag_name: envoy.cluster_name}, {tag_name: d, regex: '('}]
histogram_bucket_settings: [{match: {prefix: cluster.}, buckets: [10, 1]}]
",
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(config.tagging.only_defaults.as_deref(), Some(&["envoy.cluster_name".to_owned()][..]));
        assert_eq!(config.tagging.fixed, [("b".to_owned(), "c".to_owned())]);
        assert_eq!((config.buckets("cluster.x"), config.buckets("http.x").len()), (&[1.0, 10.0][..], 19));
    }
}
