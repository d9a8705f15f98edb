//! The tests in booted guests: each file of tests/tests is one of them.

use std::fs;

use crate::{
    run::{Failure, cargo, run},
    workspace,
};

/// Prints the names of the tests.
///
/// # Errors
/// `File` if tests/tests cannot be listed.
pub(crate) fn list() -> Result<(), Failure> {
    for test in tests()? {
        println!("{test}");
    }
    Ok(())
}

/// Runs the test `name`, and prints what it prints.
///
/// # Errors
/// `NoSuchTest`, and that of the run.
pub(crate) fn test(name: &str, words: &[String]) -> Result<(), Failure> {
    let test = resolve(name, tests()?)?;
    let filter = format!("binary(={test})");
    let run_one = ["nextest", "run", "--package", "tests", "--locked", "--profile", "all", "-E"];
    run(cargo(run_one).arg(filter).args(words))
}

fn tests() -> Result<Vec<String>, Failure> {
    let folder = workspace().join("tests/tests");
    let mut tests = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Failure::file("list", &folder))? {
        let path = entry.map_err(Failure::file("list", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    tests.sort();
    Ok(tests)
}

/// The test of that name, with or without `guest_` before it.
fn resolve(name: &str, tests: Vec<String>) -> Result<String, Failure> {
    let long = format!("guest_{name}");
    match tests.iter().find(|test| *test == name || **test == long) {
        Some(test) => Ok(test.clone()),
        None => Err(Failure::NoSuchTest { name: name.to_owned(), tests }),
    }
}

#[cfg(test)]
mod cases {
    use super::*;

    #[test]
    fn a_test_is_found_by_its_whole_name_and_without_guest_before_it() {
        let tests = tests().unwrap();
        for (name, test) in [("qmp", "guest_qmp"), ("guest_qmp", "guest_qmp"), ("nested", "nested")]
        {
            assert_eq!(resolve(name, tests.clone()).unwrap(), test);
        }
    }

    #[test]
    fn a_name_that_no_test_has_is_refused_with_the_names_that_there_are() {
        let error = resolve("qmpp", tests().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("there is no guest test 'qmpp'; there are: "), "{error}");
        assert!(error.contains("guest_qmp, "), "{error}");
    }
}
