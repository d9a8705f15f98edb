//! Answers that are printed instead of serving: help, versions and build information, in nbdkit's form for people and
//! scripts (nbdkit-probing(1)).

use std::{env, fmt::Write, path::Path};

use clap::CommandFactory;

use super::{Said, Stop};
use crate::{
    filter,
    params::{Key, Params, Word},
    plugin, tls,
};

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Fields that nbdkit's plugin of that name prints in addition to those of all plugins.
const OWN_FIELDS: [(&str, &[&str]); 2] = [
    (
        "file",
        &[
            "file_blksszget=yes",
            "file_blkzeroout=yes",
            "file_falloc_fl_punch_hole=yes",
            "file_falloc_fl_zero_range=yes",
        ],
    ),
    ("memory", &["mlock=no", "zstd=no"]),
];

impl Said {
    /// The answer, if an option asks for one. As with nbdkit, the named plugin and filters must exist.
    pub(super) fn answer(&self, params: &[Word]) -> Result<Option<String>, Stop> {
        if self.dump_config {
            return Ok(Some(config()));
        }
        if self.long_options || self.short_options {
            return Ok(Some(options(self.long_options)));
        }
        if !(self.help || self.version || self.dump_plugin) {
            return Ok(None);
        }
        let mut answer = String::new();
        if self.help {
            writeln!(answer, "{}", Self::command().render_help().to_string().trim_end())?;
        } else if self.version {
            writeln!(answer, "{NAME} {VERSION}")?;
        }
        let Some(plugin) = &self.plugin else {
            return if self.help || self.version { Ok(Some(answer)) } else { Err(Stop::DumpWhat) };
        };
        let plugin = plugin::find(plugin)?;
        let filters: Vec<_> =
            self.filter.iter().map(|name| filter::find(name)).collect::<Result<_, _>>()?;
        if self.help {
            for filter in filters {
                explain(&mut answer, "filter", (filter.name, filter.about), filter.keys, None)?;
            }
            explain(&mut answer, "plugin", (plugin.name, plugin.about), plugin.keys, plugin.main)?;
        } else if self.version {
            for name in filters.iter().map(|filter| filter.name).chain([plugin.name]) {
                writeln!(answer, "{name} {VERSION}")?;
            }
        } else {
            // Wrong parameters are errors here, missing ones are not.
            let mut words = params.iter().collect();
            filter::choose(&self.filter, &mut words)?;
            Params::of_plugin(plugin.name, plugin.keys, plugin.main, &words)
                .map_err(|error| Stop::Build(error.into()))?;
            answer = fields(plugin)?;
        }
        Ok(Some(answer))
    }
}

/// Describes one filter or plugin with its parameters.
fn explain(
    text: &mut String,
    kind: &str,
    (name, about): (&str, &str),
    keys: &[Key],
    main: Option<&str>,
) -> Result<(), Stop> {
    writeln!(text, "\n{kind}: {name} ({about})\n(built in)")?;
    let heads: Vec<String> = keys.iter().map(|key| head(key, main)).collect();
    let width = heads.iter().map(String::len).max().unwrap_or_default();
    for (head, key) in heads.iter().zip(keys) {
        let many = if key.many { " (may be given again)" } else { "" };
        writeln!(text, "{head:width$}  {}.{many}", key.about)?;
    }
    Ok(())
}

/// `key=<VALUE>` as nbdkit writes it. The key is in brackets if it may be left out.
fn head(key: &Key, main: Option<&str>) -> String {
    let name = key.name;
    let name = if main == Some(name) { format!("[{name}=]") } else { format!("{name}=") };
    // A choice is printed literally, a placeholder in angle brackets.
    let choice = key.value.chars().any(|c| c.is_ascii_lowercase());
    if choice { format!("{name}{}", key.value) } else { format!("{name}<{}>", key.value) }
}

/// `--dump-plugin`: nbdkit's fields of a plugin, without those about C and shared objects.
fn fields(plugin: &plugin::Entry) -> Result<String, Stop> {
    let mut text = String::new();
    if let Ok(binary) = env::current_exe() {
        writeln!(text, "path={}", binary.display())?;
    }
    writeln!(text, "name={}\nversion={VERSION}", plugin.name)?;
    writeln!(text, "max_thread_model=parallel\nthread_model=parallel\nerrno_is_preserved=1")?;
    if let Some(main) = plugin.main {
        writeln!(text, "magic_config_key={main}")?;
    }
    let own = OWN_FIELDS.iter().find(|(name, _)| *name == plugin.name);
    for field in own.iter().flat_map(|(_, fields)| fields.iter()) {
        writeln!(text, "{field}")?;
    }
    Ok(text)
}

/// `--dump-config`, in the order of the keys. Plugins and filters are built in, so their names are printed instead of
/// directories.
fn config() -> String {
    let binary = env::current_exe().ok();
    let path = |path: Option<&Path>| path.map(|path| path.display().to_string());
    let names = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>().join(",");
    let part = |index| VERSION.split('.').nth(index).unwrap_or_default().to_owned();
    let is = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    [
        ("binary", path(binary.as_deref())),
        ("bindir", path(binary.as_deref().and_then(Path::parent))),
        ("exit_with_parent", Some(is(true))),
        ("filters", Some(names(&mut filter::built_in().iter().map(|filter| filter.name)))),
        ("host_cpu", Some(env::consts::ARCH.to_owned())),
        ("host_os", Some(HOST_OS.to_owned())),
        ("name", Some(NAME.to_owned())),
        ("plugins", Some(names(&mut plugin::BUILT_IN.iter().map(|plugin| plugin.name)))),
        ("root_tls_certificates_dir", Some(tls::ROOTS_PLACE.to_owned())),
        ("selinux", Some(is(true))),
        ("tls", Some(is(true))),
        ("version", Some(VERSION.to_owned())),
        ("version_major", Some(part(0))),
        ("version_minor", Some(part(1))),
        ("zstd", Some(is(false))),
    ]
    .into_iter()
    .filter_map(|(key, value)| value.map(|value| format!("{key}={value}\n")))
    .collect()
}

/// The system's name in config.guess(1).
const HOST_OS: &str = if cfg!(target_env = "musl") { "linux-musl" } else { "linux-gnu" };

/// Every option that is built, one per line.
fn options(long: bool) -> String {
    // The parameters are for scripts that complete words. nbdkit does not list them either.
    let command = Said::command();
    let built = command.get_arguments().filter(|arg| !arg.get_id().as_str().ends_with("_options"));
    let mut names: Vec<String> = if long {
        let all = built.flat_map(|arg| {
            arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
        });
        all.map(|name| format!("--{name}\n")).collect()
    } else {
        built.filter_map(clap::Arg::get_short).map(|letter| format!("-{letter}\n")).collect()
    };
    names.sort_unstable();
    names.concat()
}
