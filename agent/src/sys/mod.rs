//! Where the agent meets the kernel. The only modules of this crate with `unsafe`, and only where
//! no safe wrapper exists; each block says why it is sound.

#[allow(unsafe_code, reason = "tokio's registration of a descriptor is unsafe")]
pub(crate) mod socket;
