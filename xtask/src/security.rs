//! The bounds that SECURITY.md names are those of the code.

use std::fs;

use crate::workspace;

/// A bound: where it is, and `NAME = VALUE` or `NAME`.
#[derive(Debug)]
struct Bound<'a> {
    file: &'a str,
    name: &'a str,
    value: Option<&'a str>,
}

/// The bounds in the last cell of a row, which is "`FILE`: `NAME = VALUE`, `NAME`...".
fn bounds(row: &str) -> impl Iterator<Item = Bound<'_>> {
    let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    let mut words = cell.split('`').skip(1).step_by(2);
    let file = words.next().filter(|file| file.contains('/')).unwrap_or_default();
    words.filter(move |_| !file.is_empty()).map(move |word| match word.split_once(" = ") {
        Some((name, value)) => Bound { file, name, value: Some(value) },
        None => Bound { file, name: word, value: None },
    })
}

/// What the code says that `name` is.
fn value_in<'a>(code: &'a str, name: &str) -> Option<&'a str> {
    let definition = ["const", "static"].iter().find_map(|kind| {
        let start = code.find(&format!("{kind} {name}:"))?;
        code[start..].split(';').next()
    });
    definition?.split_once(" = ").map(|(_type, value)| value.trim())
}

#[test]
fn every_bound_in_security_md_is_in_the_code_with_that_value() {
    let text = fs::read_to_string(workspace().join("SECURITY.md")).unwrap();
    let (mut found, mut wrong) = (0, Vec::new());
    for bound in text.lines().filter(|line| line.starts_with('|')).flat_map(bounds) {
        found += 1;
        let code = fs::read_to_string(workspace().join(bound.file)).unwrap_or_default();
        match (value_in(&code, bound.name), bound.value) {
            (Some(_), None) => {}
            (Some(is), Some(said)) if is == said => {}
            (is, _) => wrong.push((bound, is.map(str::to_owned))),
        }
    }
    assert!(found > 40, "the walk found the tables: {found}");
    assert!(wrong.is_empty(), "SECURITY.md names bounds that the code does not have: {wrong:#?}");
}
