//! Options of nbdkit that are not built: known, so that they are refused by name and with what to
//! do instead, and never ignored.

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};

/// An option as nbdkit(1) has it.
struct Refused {
    /// The spellings: `-x` or `--long`; the first long one is its id.
    spellings: &'static [&'static str],
    /// Takes a value.
    value: bool,
    /// Values that ask for what agent does anyway.
    harmless: &'static [&'static str],
    mend: &'static str,
}

const fn flag(spellings: &'static [&'static str], mend: &'static str) -> Refused {
    Refused { spellings, value: false, harmless: &[], mend }
}

const fn option(spellings: &'static [&'static str], mend: &'static str) -> Refused {
    Refused { spellings, value: true, harmless: &[], mend }
}

const LEAVE_OUT: &str = "leave it out";

/// All of nbdkit 1.46 that is neither in `options.rs` nor here is a mistake.
const REFUSED: &[Refused] = &[
    option(&["--debug", "-D"], "use -v"),
    flag(&["--dump-config"], LEAVE_OUT),
    flag(&["--dump-plugin"], LEAVE_OUT),
    flag(&["--long-options"], "read --help"),
    option(&["--name"], LEAVE_OUT),
    flag(
        &["--oldstyle", "--old-style", "-o"],
        "leave it out: every client of today speaks newstyle",
    ),
    flag(&["--short-options"], "read --help"),
    option(&["--tls-priority"], "leave it out: TLS 1.2 and 1.3 with AEAD suites only"),
    option(&["--tls-psk"], "use certificates (--tls-certificates)"),
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
            // Taken without a value as well: what matters is to say that it is not built.
            arg.num_args(0..=1).action(ArgAction::Append).allow_hyphen_values(true)
        } else {
            arg.action(ArgAction::SetTrue)
        })
    })
}

/// The first of them that was given: all its spellings, and what to do instead.
pub(super) fn given(matches: &ArgMatches) -> Option<(String, &'static str)> {
    let refused = REFUSED.iter().find(|refused| {
        if matches.value_source(refused.id()) != Some(ValueSource::CommandLine) {
            return false;
        }
        let values = refused.value.then(|| matches.get_many::<String>(refused.id())).flatten();
        values.is_none_or(|mut values| {
            values.len() == 0 || values.any(|value| !refused.harmless.contains(&value.as_str()))
        })
    })?;
    Some((refused.spellings.join("/"), refused.mend))
}

impl Refused {
    fn id(&self) -> &'static str {
        self.spellings[0]
    }
}
