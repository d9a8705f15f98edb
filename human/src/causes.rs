//! An error with its causes, on one line.

use std::{error::Error, fmt};

/// Prints an error and its causes, down to the first one, joined by ": ". A cause whose text ends the
/// text before it is not repeated.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

/// An error that is printed with its causes, made by [`chain`].
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // An error may include the text of its cause in its own.
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    enum Failed {
        #[error("cannot open the disk")]
        Open(#[source] io::Error),
        #[error("not started: {0}")]
        Said(#[source] Box<Self>),
        #[error(transparent)]
        Same(Box<Self>),
    }

    #[test]
    fn every_cause_is_said_once() {
        let denied = || io::Error::other("the medium is worn out");
        let open = Failed::Open(denied());
        assert_eq!(chain(&open).to_string(), "cannot open the disk: the medium is worn out");
        let said = Failed::Said(Box::new(Failed::Open(denied())));
        let line = "not started: cannot open the disk: the medium is worn out";
        assert_eq!(chain(&said).to_string(), line);
        let same = Failed::Same(Box::new(said));
        assert_eq!(chain(&same).to_string(), line);
    }
}
