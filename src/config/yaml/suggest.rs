//! "Did you mean": the known name nearest to an unknown one.

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// The field of `message` whose name is nearly `key`, or the only one that begins with it.
pub(super) fn field(message: &MessageDescriptor, key: &str) -> Option<String> {
    let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
    let nearest = nearest(key, names.iter().map(String::as_str));
    let longer = || {
        let beginning = format!("{key}_");
        let mut longer = names.iter().filter(|name| name.starts_with(&beginning));
        longer.next().filter(|_| longer.next().is_none()).map(String::as_str)
    };
    nearest.or_else(longer).map(str::to_owned)
}

/// The candidate that differs from `word` by few letters, case apart.
fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_ascii_lowercase();
    let (distance, nearest) =
        candidates.map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate)).min()?;
    (distance <= 1 + word.len() / 4).then_some(nearest)
}

/// The message that an unknown type name probably means: one of the same short name, in Envoy's current API if there are
/// several, or one that differs by a slip of the pen.
pub(super) fn message(pool: &DescriptorPool, name: &str) -> Option<String> {
    let short = name.rsplit('.').next().unwrap_or(name);
    let near = pool.all_messages().filter_map(|message| {
        let distance = distance(message.full_name(), name);
        (message.name() == short || distance <= 3).then(|| (distance, message.full_name().to_owned()))
    });
    near.min().map(|(_, name)| name)
}

/// Levenshtein's distance in bytes.
fn distance(left: &str, right: &str) -> usize {
    let right = right.as_bytes();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let listener = proto::pool().get_message_by_name("envoy.config.listener.v3.Listener").expect("a message");
        assert_eq!(field(&listener, "adress").as_deref(), Some("address"));
        assert_eq!(field(&listener, "filterchains").as_deref(), Some("filter_chains"));
        assert_eq!(field(&listener, "banana"), None);
        assert_eq!(field(&listener, "api").as_deref(), Some("api_listener"));
        assert_eq!(field(&listener, "tcp"), None, "there are two");
    }

    #[test]
    fn a_type_is_found_by_its_short_name() {
        let old = "envoy.config.filter.http.router.v2.Router";
        assert_eq!(message(proto::pool(), old).as_deref(), Some("envoy.extensions.filters.http.router.v3.Router"));
        let typo = "envoy.extensions.filters.http.router.v3.Ruoter";
        assert_eq!(message(proto::pool(), typo).as_deref(), Some("envoy.extensions.filters.http.router.v3.Router"));
        assert_eq!(message(proto::pool(), "com.example.Nothing"), None);
    }
}
