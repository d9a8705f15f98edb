//! The manual pages and the shell completions, which the programs make from their command lines.
//!
//! They are committed for packages to ship. The tests `generated` of agent and guest-tools fail when
//! they are not what the programs make.

use std::{fs, path::Path};

use crate::{
    run::{Failure, cargo, run},
    workspace,
};

/// Replaces all of them.
///
/// # Errors
/// `File` if an old page cannot be removed, and those of the programs that are run.
pub(crate) fn all() -> Result<(), Failure> {
    for command in ["man", "completions"] {
        // Pages of commands that are gone must not stay.
        empty(&workspace().join("agent").join(command))?;
        run(cargo(["run", "--locked", "--package", "agent", "--", command, "--dir"])
            .arg(format!("agent/{command}")))?;
    }
    // The binary of guest-tools is small because a test makes these, and not the binary itself.
    run(cargo(["test", "--quiet", "--locked", "--package", "guest-tools", "generated"])
        .env("GUEST_TOOLS_GENERATE", "1"))
}

/// Removes the files in `folder`, and makes it if it is not there.
fn empty(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(Failure::file("create", folder))?;
    for entry in fs::read_dir(folder).map_err(Failure::file("list", folder))? {
        let path = entry.map_err(Failure::file("list", folder))?.path();
        fs::remove_file(&path).map_err(Failure::file("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_command_that_is_gone_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent-old.1"), "").unwrap();
        empty(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let new = folder.path().join("new");
        empty(&new).unwrap();
        assert!(new.is_dir());
    }
}
