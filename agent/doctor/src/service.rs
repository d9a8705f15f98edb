//! The systemd service that a process is in, and what is asked of systemd about services.

/// The properties that `systemctl show` is asked for.
pub(crate) const PROPERTIES: &str = "--property=Id,LoadState,RestrictAddressFamilies,\
                                     SystemCallFilter,SystemCallErrorNumber,PrivateDevices,\
                                     DevicePolicy,DeviceAllow";

/// The units that are shipped with the agent.
pub(crate) const SHIPPED: &[&str] = &["agent.service", "agent@*.service"];

/// The service that a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) name: String,
    /// Whether a user's systemd runs it, and not the system's.
    user: bool,
}

impl Own {
    /// The service in the text of /proc/PID/cgroup.
    pub(crate) fn of(groups: &str) -> Option<Self> {
        let named = |line: &&str| line.starts_with("0::") || line.contains(":name=systemd:");
        let path = groups.lines().filter(named).find_map(|line| {
            let path = line.rsplit(':').next()?;
            path.contains(".service").then_some(path)
        })?;
        // A login session is in user@1000.service or in a scope, which restrict nothing.
        let name = path.split('/').rfind(|part| part.ends_with(".service"))?;
        let user = path.contains("/user@");
        (!name.starts_with("user@")).then(|| Self { name: name.into(), user })
    }

    pub(crate) fn systemctl(&self) -> &'static str {
        if self.user { "systemctl --user" } else { "systemctl" }
    }

    /// Whether it is one that is shipped with the agent. No QEMU runs in it.
    pub(crate) fn is_agents(&self) -> bool {
        self.name == "agent.service" || self.name.starts_with("agent@")
    }

    pub(crate) fn is_users(&self) -> bool {
        self.user
    }
}
