//! Changes which exports clients see and may open, and their descriptions: nbdkit-exportname-filter(1).

use std::{io, sync::Arc};

use thiserror::Error;

use super::Entry;
use crate::{
    exports::{Exports, Listed, Listing, OpenError, Opened, Permit},
    params::{Key, ParamError, Params},
    shell,
    stack::Stack,
    tenant::Tenant,
};
use disk::{Disk, DiskInfo, Layer, Op};

pub(super) const ENTRY: Entry = Entry {
    name: "exportname",
    about: "Change which exports are listed and can be opened, and their descriptions",
    keys: &[
        Key::once("default-export", "NAME", "The export for a client that names none"),
        Key::once(
            "exportname-list",
            "keep|error|empty|defaultonly|explicit",
            "Which exports are listed; explicit: those of exportname [default: keep]",
        ),
        Key::many("exportname", "NAME", "A name that may be listed or opened"),
        Key::once(
            "exportname-strict",
            "BOOL",
            "Only the names of exportname can be opened [default: false]",
        ),
        Key::once(
            "exportdesc",
            "keep|none|fixed:TEXT|script:COMMAND",
            "Descriptions; the shell runs a command with $name [default: keep]",
        ),
    ],
    build: |params, stack, _| {
        let named = Named { below: stack.exports, words: Words::parse(params)? };
        Ok(Stack { exports: Arc::new(named), gates: stack.gates })
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Keep,
    Error,
    Empty,
    DefaultOnly,
    Explicit,
}

const LIST_WORDS: [&str; 5] = ["keep", "error", "empty", "defaultonly", "explicit"];
const LISTS: [List; 5] = [List::Keep, List::Error, List::Empty, List::DefaultOnly, List::Explicit];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Description {
    Keep,
    None,
    Fixed(String),
    Script(String),
}

#[derive(Debug)]
struct Words {
    /// Empty: the exports below decide.
    default: String,
    list: List,
    names: Vec<String>,
    strict: bool,
    description: Description,
}

impl Words {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let text = params.value("exportdesc").unwrap_or("keep");
        let description = match text.split_once(':') {
            None if text == "keep" => Description::Keep,
            None if text == "none" => Description::None,
            Some(("fixed", text)) => Description::Fixed(text.to_owned()),
            Some(("script", command)) => Description::Script(command.to_owned()),
            _ => {
                let hint = "write keep, none, fixed:TEXT or script:COMMAND";
                return Err(params.wrong("exportdesc", text, "a kind of description", hint));
            }
        };
        Ok(Self {
            default: params.value("default-export").unwrap_or_default().to_owned(),
            list: params.choice("exportname-list", &LIST_WORDS, &LISTS)?.unwrap_or(List::Keep),
            names: params.values("exportname").map(str::to_owned).collect(),
            strict: params.switch("exportname-strict")?.unwrap_or(false),
            description,
        })
    }

    /// The description of an export whose description below is `below`.
    async fn describe(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        below: Option<String>,
    ) -> Option<String> {
        match &self.description {
            Description::Keep => below,
            Description::None => None,
            Description::Fixed(text) => Some(text.clone()),
            Description::Script(command) => output_of(tenant, command, name).await,
        }
    }
}

/// The output of a command, without its last newline; `None` if it fails.
async fn output_of(tenant: &Arc<Tenant>, command: &str, name: &str) -> Option<String> {
    let mut shell = shell::command(command);
    // The name comes from a client: it goes into the environment, never into the command.
    shell.env("name", name);
    match shell::turn(tenant).await.run(shell, ()).await {
        Ok((ran, ())) if ran.status.success() => {
            let text = String::from_utf8_lossy(&ran.output).into_owned();
            Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
        }
        Ok((ran, ())) => {
            tracing::warn!(export = name, "filter exportname: exportdesc: {}", ran.why());
            None
        }
        Err(error) => {
            tracing::warn!(
                export = name,
                "filter exportname: exportdesc: cannot start sh: {error}"
            );
            None
        }
    }
}

#[derive(Debug, Error)]
#[error("filter exportname: exportname-list=error")]
struct ListRefused;

#[derive(Debug)]
struct Named {
    below: Arc<dyn Exports>,
    words: Words,
}

impl Named {
    /// The name of the default export.
    fn default(&self) -> &str {
        let default = self.words.default.as_str();
        if default.is_empty() { self.below.canonical("") } else { default }
    }

    /// The name below for a client's name.
    fn name_below<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() { &self.words.default } else { name }
    }
}

impl Exports for Named {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        Box::pin(async move {
            let bare = |name: &str| Listed { name: name.to_owned(), description: None };
            let mut list = match self.words.list {
                List::Keep => self.below.list(permit).await?,
                List::Error => {
                    return Err(io::Error::other(ListRefused));
                }
                List::Empty => Vec::new(),
                List::DefaultOnly => vec![bare(self.default())],
                List::Explicit => self.words.names.iter().map(|name| bare(name)).collect(),
            };
            for Listed { name, description } in &mut list {
                let below = description.take();
                *description = self.words.describe(permit.tenant(), name, below).await;
            }
            Ok(list)
        })
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            // As in nbdkit, the client's own name counts.
            if self.words.strict && !self.words.names.iter().any(|known| known == name) {
                return Err(OpenError::Unknown);
            }
            let name = self.name_below(name);
            let disk = self.below.open(name, permit).await?;
            if self.words.description == Description::Keep {
                return Ok(disk);
            }
            let description = self.words.describe(permit.tenant(), name, None).await;
            Ok(Arc::new(Described { below: disk, description }) as _)
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.below.canonical(self.name_below(name))
    }
}

/// A disk with another description.
#[derive(Debug)]
struct Described {
    below: Arc<dyn Disk>,
    description: Option<String>,
}

impl Layer for Described {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        DiskInfo { description: self.description.clone(), ..self.below.info() }
    }

    fn passes(&self, _: &Op<'_>) -> bool {
        true
    }
}
