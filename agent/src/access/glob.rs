//! Patterns as of fnmatch(3) without flags: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before a literal character.

use std::fmt;

/// A pattern that matches whole names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

/// A class in brackets that starts a pattern.
struct Class<'a> {
    negated: bool,
    members: &'a [char],
    /// Characters of the pattern, brackets included.
    length: usize,
}

impl Glob {
    pub(crate) fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether the whole name matches. Takes at most time in proportion to the product of both lengths.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut seen) = (0, 0);
        // The last star, and the place in the name where the rest of the pattern was tried.
        let mut star = None;
        while seen < name.len() {
            if pattern.get(at) == Some(&'*') {
                star = Some((at, seen));
                at += 1;
            } else if let Some(length) = one(&pattern[at..], name[seen]) {
                at += length;
                seen += 1;
            } else if let Some((of_star, tried)) = star {
                star = Some((of_star, tried + 1));
                (at, seen) = (of_star + 1, tried + 1);
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|left| *left == '*')
    }
}

/// The length of the first element of the pattern, if it matches this character.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match *pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (escaped == c).then_some(2),
        ['[', ..] => match Class::at_front(pattern) {
            Some(class) => class.contains(c).then_some(class.length),
            // Without a closing bracket it is a literal bracket.
            None => (c == '[').then_some(1),
        },
        [literal, ..] => (literal == c).then_some(1),
        [] => None,
    }
}

impl<'a> Class<'a> {
    fn at_front(pattern: &'a [char]) -> Option<Self> {
        let negated = matches!(pattern.get(1), Some('!' | '^'));
        let start = if negated { 2 } else { 1 };
        // A closing bracket in first place is a member.
        let end = (start + 1..pattern.len()).find(|&i| pattern[i] == ']')?;
        Some(Self { negated, members: &pattern[start..end], length: end + 1 })
    }

    fn contains(&self, c: char) -> bool {
        let mut members = self.members;
        let mut found = false;
        while let Some((&first, rest)) = members.split_first() {
            members = rest;
            if let ['-', last, after @ ..] = rest {
                found |= (first..=*last).contains(&c);
                members = after;
            } else {
                found |= first == c;
            }
        }
        found != self.negated
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, matches) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "CN=anybody,O=BigCo", true),
            ("**", "a", true),
            ("CN=a", "CN=a", true),
            ("CN=a", "CN=ab", false),
            ("CN=a", "cn=a", false),
            ("CN=*,O=BigCo", "CN=client.example.com,O=BigCo", true),
            ("CN=*,O=BigCo", "CN=client,O=BigCo,C=US", false),
            ("CN=*,O=BigCo*", "CN=x,O=SmallCo,O=BigCo,C=US", true),
            ("*a*b", "aab", true),
            ("*a*b", "ba", false),
            ("?", "", false),
            ("?", "é", true),
            ("a?c", "a/c", true),
            ("*.c", ".c", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"CN=Foo\, Inc", "CN=Foo, Inc", true),
            (r"a\", r"a\", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            ("[ab", "[ab", true),
            ("[ab", "a", false),
            ("x[0-9]*", "x1y", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), matches, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!Glob::new(pattern).matches(&"a".repeat(5000)));
    }
}
