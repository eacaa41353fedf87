//! Finds, among many routes, those whose path literal can accept a path: in the order of the routes, and at a cost that does not
//! grow with their number.
//!
//! The distinct literals are sorted, and each knows the longest other one that it starts with. The longest literal that a path
//! starts with is then the path's predecessor in that order, or one of its ancestors; its own ancestors are all the others.

/// The literals of the routes of one virtual host.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    literals: Vec<Indexed>,
}

#[derive(Debug)]
struct Indexed {
    text: Box<[u8]>,
    parent: Option<usize>,
    /// The routes with this literal, ascending.
    routes: Vec<u32>,
}

impl PathIndex {
    /// Indexes routes, given in their order, each with the text that the paths it accepts start with.
    pub(super) fn new(routes: impl IntoIterator<Item = (u32, Box<[u8]>)>) -> PathIndex {
        let mut routes: Vec<_> = routes.into_iter().map(|(route, text)| (text, route)).collect();
        routes.sort_unstable();
        let mut index = PathIndex::default();
        for (text, route) in routes {
            match index.literals.last_mut() {
                Some(last) if last.text == text => last.routes.push(route),
                _ => {
                    let parent = index.longest_prefix(&text);
                    index.literals.push(Indexed { text, parent, routes: vec![route] });
                }
            }
        }
        index
    }

    /// Whether no route is indexed.
    pub(super) fn is_empty(&self) -> bool {
        self.literals.is_empty()
    }

    /// The routes that may accept `path`, to be asked for in ascending order.
    pub(super) fn candidates(&self, path: &[u8]) -> Candidates<'_> {
        Candidates { index: self, longest: self.longest_prefix(path) }
    }

    /// The position of the longest literal that `path` starts with.
    fn longest_prefix(&self, path: &[u8]) -> Option<usize> {
        let after = self.literals.partition_point(|literal| *literal.text <= *path);
        let mut literal = after.checked_sub(1);
        while let Some(position) = literal {
            if path.starts_with(&self.literals[position].text) {
                return literal;
            }
            literal = self.literals[position].parent;
        }
        None
    }
}

/// What [`PathIndex::candidates`] found.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    index: &'a PathIndex,
    longest: Option<usize>,
}

impl Candidates<'_> {
    /// The first candidate at or after `route`.
    pub(super) fn next(&self, route: u32) -> Option<u32> {
        let mut first = None;
        let mut literal = self.longest;
        while let Some(position) = literal {
            let Indexed { routes, parent, .. } = &self.index.literals[position];
            let here = first_at_or_after(routes, route);
            first = [first, here].into_iter().flatten().min();
            literal = *parent;
        }
        first
    }
}

/// The first of ascending `routes` that is not below `route`.
pub(super) fn first_at_or_after(routes: &[u32], route: u32) -> Option<u32> {
    routes.get(routes.partition_point(|other| *other < route)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(literals: &[&str], path: &str) -> Vec<u32> {
        let routes = literals.iter().enumerate().map(|(i, text)| (u32::try_from(i).unwrap(), text.as_bytes().into()));
        let index = PathIndex::new(routes);
        let found = index.candidates(path.as_bytes());
        std::iter::successors(found.next(0), |last| found.next(last + 1)).collect()
    }

    #[test]
    fn all_prefixes_in_the_order_of_the_routes() {
        let literals = ["/a/b", "/", "/ab", "/a", "/a/b/c", "/a/b", "", "/b"];
        assert_eq!(candidates(&literals, "/a/b/d"), [0, 1, 3, 5, 6]);
        assert_eq!(candidates(&literals, "/a/b/c"), [0, 1, 3, 4, 5, 6]);
        assert_eq!(candidates(&literals, "/abc"), [1, 2, 3, 6]);
        assert_eq!(candidates(&literals, "/c"), [1, 6]);
        assert_eq!(candidates(&literals, ""), [6]);
        assert_eq!(candidates(&["/b"], "/a"), [0; 0]);
        assert_eq!(candidates(&["/b"], "/c"), [0; 0]);
        assert_eq!(candidates(&[], "/"), [0; 0]);
    }

    #[test]
    fn other_routes_cost_nothing() {
        let literals: Vec<_> = (0..1000).map(|i| format!("/service/{i:03}/")).collect();
        let literals: Vec<_> = literals.iter().map(String::as_str).collect();
        assert_eq!(candidates(&literals, "/service/000/x"), [0]);
        assert_eq!(candidates(&literals, "/service/999/x"), [999]);
        assert_eq!(candidates(&literals, "/service/"), [0; 0]);
    }

    #[test]
    fn a_predecessor_that_is_no_prefix_leads_to_one_that_is() {
        assert_eq!(candidates(&["/a", "/a/b/x", "/a/b/y/z"], "/a/b/yy"), [0]);
        assert_eq!(candidates(&["/a", "/a/b", "/a/b/c/d/e", "/a/b/c/d/e/f"], "/a/b/c/e"), [0, 1]);
    }
}
