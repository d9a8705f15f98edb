//! A guest that restarts during its writes: what it had flushed is there, and it continues.

use std::time::Duration;

use tests::{Failure, Outcome, lab::Lab, vhost_user::debian};

const ROUNDS: &str = "python3 /tools/scripts/rounds.py";

#[test]
fn a_guest_restarts_in_the_middle_of_its_writes_and_goes_on() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_restart")? else { return Ok(()) };
    let socket = lab.path("vm");
    let agent = lab.agent_for(&socket, &["memory", "128M"])?;
    let mut guest = debian("vhost-user-restart", &socket)?;
    let mut first = 1;
    // At once, as after a crash; and in the order in which Linux restarts, drivers included.
    for (how, command) in [
        ("at once", "echo b >/proc/sysrq-trigger"),
        ("by reboot(2)", "systemctl reboot --force --force"),
    ] {
        let told = first + 9;
        let last = guest.restart_by(&format!(
            "{ROUNDS} write {first} 1000000 >/run/lab/rounds 2>&1 &
             tail -f /run/lab/rounds &
             until grep -q 'flushed {told}$' /run/lab/rounds; do sleep 0.02; done
             {command}
             sleep 60"
        ))?;
        let flushed = last_flushed(last)?;
        println!("restarted {how} after {flushed} rounds");
        println!("the agent: {}", agent.wait_for("end=closed")?);
        let check = format!("{ROUNDS} check {flushed}");
        println!("ok: restarted {how}: {}", guest.sh_within(&check, Duration::from_secs(20))?);
        first = flushed + 1;
    }
    println!("{}", guest.sh(&format!("{ROUNDS} write {first} 20"))?);
    println!("ok: {}", guest.sh(&format!("{ROUNDS} check {}", first + 19))?);
    Ok(())
}

/// The last round that a console reports as flushed.
fn last_flushed(console: &[String]) -> Outcome<u64> {
    let rounds = console.iter().filter_map(|line| line.split("flushed ").nth(1)?.parse().ok());
    rounds.max().ok_or_else(|| Failure::new("the console tells of no round that was flushed"))
}
