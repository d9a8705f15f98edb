//! The `<vsock/>` element of a domain ("Vsock" in libvirt's domain XML format).

use std::fmt;

use vsock_cid::GuestCid;

/// How the domain gets its CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CidChoice {
    /// libvirt assigns the lowest free number at each start. That is an address and not an identity: the next
    /// domain may get the same one.
    Auto,
    /// This number.
    Fixed(GuestCid),
}

/// The element `<cid/>`.
impl fmt::Display for CidChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("<cid auto='yes'/>"),
            Self::Fixed(cid) => write!(f, "<cid auto='no' address='{cid}'/>"),
        }
    }
}

/// The virtio version of the device, in libvirt's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// The machine's default.
    Virtio,
    /// For drivers of virtio 0.9 and of 1.0.
    Transitional,
    /// For drivers of virtio 1.0 only.
    NonTransitional,
}

impl Model {
    /// Every model.
    pub const ALL: [Self; 3] = [Self::Virtio, Self::Transitional, Self::NonTransitional];

    /// libvirt's name of the model.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Transitional => "virtio-transitional",
            Self::NonTransitional => "virtio-non-transitional",
        }
    }

    /// The model with this name of libvirt's; `None` if there is none.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }
}

/// The element to add. `Display` prints it as libvirt does.
///
/// `None` leaves the choice: a new device gets [`Model::Virtio`] and [`CidChoice::Auto`], and an existing device keeps
/// what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vsock {
    /// How the domain gets its CID.
    pub cid: Option<CidChoice>,
    /// The virtio version of the device.
    pub model: Option<Model>,
}

impl fmt::Display for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.unwrap_or(Model::Virtio).name();
        write!(f, "<vsock model='{model}'>{}</vsock>", self.cid.unwrap_or(CidChoice::Auto))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_element_is_as_libvirt_documents_it() {
        let fixed = Vsock { cid: Some(CidChoice::Fixed(GuestCid::MIN)), model: None };
        let xml = "<vsock model='virtio'><cid auto='no' address='3'/></vsock>";
        assert_eq!(fixed.to_string(), xml);
        let any = Vsock { cid: None, model: None };
        assert_eq!(any.to_string(), "<vsock model='virtio'><cid auto='yes'/></vsock>");
        for model in Model::ALL {
            assert_eq!(Model::of(model.name()), Some(model));
            let wanted = Vsock { cid: Some(CidChoice::Auto), model: Some(model) };
            let name = model.name();
            assert_eq!(
                wanted.to_string(),
                format!("<vsock model='{name}'><cid auto='yes'/></vsock>")
            );
        }
        assert_eq!(Model::of("vmware"), None);
    }
}
