//! Who does not read holds nobody else up, in the same guest on the same device.

use images::Images;
use tests::{
    Failure, Outcome,
    agent::Agent,
    need,
    vhost_user::{debian, listen},
};

#[test]
fn a_fast_reader_keeps_its_rate_beside_slow_ones() -> Outcome<()> {
    if need::guests_are_off("guest_vhost_user_slow") {
        return Ok(());
    }
    need::guests()?;
    let images = Images::of_this_workspace()?;
    let dir = tempfile::tempdir().map_err(|e| Failure::of("no directory", &e))?;
    let socket = dir.path().join("vm");
    let _agent = Agent::start(&images, [&listen(&socket), "pattern", "64M"])?;
    let mut guest = debian("vhost-user-slow", &socket)?;
    println!("ok: {}", guest.check("slow beside fast", "python3 /tools/scripts/slow_reader.py")?);
    Ok(())
}
