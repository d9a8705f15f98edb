//! The Debian userland of the VM host, made by mmdebstrap: this machine's release, from this machine's package
//! sources.
//!
//! It needs no root where the kernel allows every user to create user namespaces.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    cpio::Cpio,
    kernel::{Kernel, ROOT_MODULES},
    recipe::{Key, Store},
    run,
};

const PACKAGES: &str = include_str!("../debian-host/packages");
const PREFERENCES: &str = include_str!("../debian-host/preferences");
const INIT: &str = include_str!("../debian-host/init");

/// Files that are left out, since no guest reads them.
const WITHOUT: &[&str] = &["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"];

/// The userland, as a tar archive.
pub(crate) fn userland(store: &Store) -> Result<PathBuf, Error> {
    let release = Release::of_this_machine()?;
    let packages = packages().collect::<Vec<_>>().join(",");
    let key = Key::new("userland 2").text(&release.codename).text(&packages).text(PREFERENCES);
    let folder = store.get("userland", &key, |folder| {
        let sources = folder.join("sources.list");
        run::write(&sources, release.sources()?.as_bytes())?;
        let preferences = folder.join("preferences");
        run::write(&preferences, release.preferences().as_bytes())?;
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=minbase"]).arg(format!("--include={packages}"));
        command.args(WITHOUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
        command.args(proxies()?.iter().map(|line| format!("--aptopt={line}")));
        command.arg(r#"--setup-hook=mkdir -p "$1/etc/apt/preferences.d""#);
        let upload = format!("upload '{}' /etc/apt/preferences.d/lab", preferences.display());
        command.arg(format!("--setup-hook={upload}"));
        // mmdebstrap uses `unshare` when it does not run as root.
        command.arg(&release.codename).arg(folder.join("userland.tar")).arg(&sources);
        run::output(&mut command)?;
        Ok(())
    })?;
    Ok(folder.join("userland.tar"))
}

/// The initramfs that mounts the root filesystem: busybox from the userland, two modules, and a script.
pub(crate) fn initramfs(store: &Store, userland: &Path, kernel: &Kernel) -> Result<PathBuf, Error> {
    let made_of = userland.to_string_lossy();
    let key = Key::new("host 1").text(&made_of).text(&kernel.release).text(INIT);
    let folder = store.get("host", &key, |folder| {
        let mut archive = Cpio::default();
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("bin/busybox", 0o755, &busybox(userland)?);
        kernel.add_modules(&mut archive, ROOT_MODULES)?;
        run::write(&folder.join("initramfs"), &archive.finish())
    })?;
    Ok(folder.join("initramfs"))
}

fn busybox(userland: &Path) -> Result<Vec<u8>, Error> {
    // Before Debian 13, /bin is a symbolic link in the archive, and the package has the file in /bin.
    run::output(Command::new("tar").arg("-xOf").arg(userland).args(["--wildcards", "*bin/busybox"]))
}

fn packages() -> impl Iterator<Item = &'static str> {
    PACKAGES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A release of Debian.
struct Release {
    codename: String,
}

impl Release {
    fn of_this_machine() -> Result<Self, Error> {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
        };
        let architecture = std::env::consts::ARCH;
        match (field("ID").as_deref(), field("VERSION_CODENAME")) {
            (Some("debian"), Some(codename)) if architecture == "x86_64" => Ok(Self { codename }),
            (id, _) => Err(Error::NotDebian {
                found: format!("{} for {architecture}", id.unwrap_or("of an unknown kind")),
            }),
        }
    }

    /// apt's preferences: which packages come from backports, if this machine uses backports.
    fn preferences(&self) -> String {
        PREFERENCES.replace("RELEASE", &self.codename)
    }

    /// This machine's package sources of this release, in one-line style. apt takes only the packages named in the
    /// preferences from backports; the rest of the guest is the release itself.
    fn sources(&self) -> Result<String, Error> {
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)";
        let targets = run::text(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))?;
        sources_of(&targets, &self.codename).ok_or(Error::NoSources)
    }
}

/// The sources of a release. Each line of `targets` is "URI SUITE COMPONENT ORIGIN".
fn sources_of(targets: &str, codename: &str) -> Option<String> {
    let sources: Vec<String> = targets
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (uri, suite, component) = (words.next()?, words.next()?, words.next()?);
            let kind = suite.strip_prefix(codename)?;
            let ours = words.next() == Some("Debian")
                && matches!(kind, "" | "-updates" | "-security" | "-backports");
            ours.then(|| format!("deb {uri} {suite} {component}\n"))
        })
        .collect();
    (!sources.is_empty()).then(|| sources.concat())
}

/// The proxies in apt's configuration.
fn proxies() -> Result<Vec<String>, Error> {
    let dump = run::text(Command::new("apt-config").args([
        "dump",
        "Acquire::http::Proxy",
        "Acquire::https::Proxy",
    ]))?;
    Ok(dump.lines().filter(|line| line.contains("Proxy")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::{packages, sources_of};

    #[test]
    fn the_guests_sources_are_this_machines_of_the_same_release() {
        let targets = "http://a/debian/ bookworm main Debian\n\
                       http://a/debian/ bookworm-updates main Debian\n\
                       http://a/debian/ bookworm-backports main Debian\n\
                       http://b/packages other main Elsewhere\n\
                       http://b/packages unknown main\n\
                       http://a/security/ bookworm-security main Debian\n";
        assert_eq!(
            sources_of(targets, "bookworm").unwrap(),
            "deb http://a/debian/ bookworm main\n\
             deb http://a/debian/ bookworm-updates main\n\
             deb http://a/debian/ bookworm-backports main\n\
             deb http://a/security/ bookworm-security main\n"
        );
        assert_eq!(sources_of(targets, "trixie"), None);
    }

    #[test]
    fn comments_in_the_package_list_are_skipped() {
        assert!(packages().any(|name| name == "qemu-system-x86"));
        assert!(packages().all(|name| !name.contains(['#', ' '])));
    }
}
