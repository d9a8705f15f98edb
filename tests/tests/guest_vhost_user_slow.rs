//! A client that does not read delays no other client, in the same guest on the same device.

use tests::{Outcome, lab::Lab, vhost_user::debian};

#[test]
fn a_fast_reader_keeps_its_rate_beside_slow_ones() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_slow")? else { return Ok(()) };
    let socket = lab.path("vm");
    let _agent = lab.agent_for(&socket, &["pattern", "64M"])?;
    let mut guest = debian("vhost-user-slow", &socket)?;
    println!("ok: {}", guest.check("slow beside fast", "python3 /tools/scripts/slow_reader.py")?);
    Ok(())
}
