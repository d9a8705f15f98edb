//! nbdkit's options that are not built. They are known by name, so that each is refused with an
//! alternative and none is ignored.

use super::Stop;
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};

/// An option of nbdkit(1).
struct Refused {
    /// The spellings: `-x` or `--long`. The first long one is the option's id.
    spellings: &'static [&'static str],
    /// Whether it takes a value.
    value: bool,
    /// Values that ask for the agent's normal behaviour.
    harmless: &'static [&'static str],
    why: Why,
}

enum Why {
    /// What to do until it is built.
    NotYet(&'static str),
    /// Why it will not be built, and what to do.
    Never(&'static str),
}

const fn option(spellings: &'static [&'static str], hint: &'static str) -> Refused {
    Refused { spellings, value: true, harmless: &[], why: Why::NotYet(hint) }
}

const fn never(spellings: &'static [&'static str], value: bool, why: &'static str) -> Refused {
    Refused { spellings, value, harmless: &[], why: Why::Never(why) }
}

const LEAVE_OUT: &str = "leave it out";

/// Every option of nbdkit 1.46 must be in `options.rs` or here.
const REFUSED: &[Refused] = &[
    never(
        &["--debug", "-D"],
        true,
        "these flags are about nbdkit's own parts and libraries; -v logs what the agent does",
    ),
    option(&["--name"], LEAVE_OUT),
    never(
        &["--oldstyle", "--old-style", "-o"],
        false,
        "the oldstyle protocol has no names, no TLS and no way to say no; leave it out: every client \
         since 2012 speaks newstyle",
    ),
    option(&["--tls-priority"], "leave it out: TLS 1.2 and 1.3 with AEAD suites only"),
];

/// Adds the options to `command`, hidden.
pub(super) fn add_to(command: Command) -> Command {
    REFUSED.iter().fold(command, |command, refused| {
        let mut arg = Arg::new(refused.id()).hide(true);
        for (i, spelling) in refused.spellings.iter().enumerate() {
            arg = match (spelling.strip_prefix("--"), spelling.chars().nth(1)) {
                (Some(long), _) if i == 0 => arg.long(long),
                (Some(long), _) => arg.alias(long),
                (None, letter) => arg.short(letter),
            };
        }
        command.arg(if refused.value {
            // Accepted without a value as well, because the message that it is not built matters
            // more.
            arg.num_args(0..=1).action(ArgAction::Append).allow_hyphen_values(true)
        } else {
            arg.action(ArgAction::SetTrue)
        })
    })
}

/// The error about the first refused option that was given, with all its spellings.
pub(super) fn given(matches: &ArgMatches) -> Option<Stop> {
    let refused = REFUSED.iter().find(|refused| {
        if matches.value_source(refused.id()) != Some(ValueSource::CommandLine) {
            return false;
        }
        let values = refused.value.then(|| matches.get_many::<String>(refused.id())).flatten();
        values.is_none_or(|mut values| {
            values.len() == 0 || values.any(|value| !refused.harmless.contains(&value.as_str()))
        })
    })?;
    let option = refused.spellings.join("/");
    Some(match refused.why {
        Why::NotYet(hint) => Stop::NotBuilt { option, hint },
        Why::Never(why) => Stop::Refused { option, why },
    })
}

impl Refused {
    fn id(&self) -> &'static str {
        self.spellings[0]
    }
}
