//! A guest that connects and closes continually leaves nothing behind in the agent.

use std::time::Duration;

use tests::{Outcome, agent::Agent, lab::Lab, vhost_user::debian};

const RATE: usize = 200;
/// An emulated guest is late now and then on a machine that does other work too.
const ENOUGH: usize = RATE * 9 / 10;
/// Seconds before the agent is measured. Memory that it keeps for the next connection is allocated
/// then.
const FIRST: usize = 5;
const SECONDS: usize = 60;
const PARTS: usize = 3;
/// By how much its memory may differ, in KiB, because allocators keep pages.
const SLACK: u64 = 4 << 10;

#[test]
fn two_hundred_connects_and_closes_a_second_for_a_minute() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_connects")? else { return Ok(()) };
    let socket = lab.path("vm");
    let agent = lab.agent_for(&socket, &["pattern", "64M"])?;
    let mut guest = debian("vhost-user-connects", &socket)?;

    let connects = |seconds| format!("python3 /tools/scripts/connects.py {RATE} {seconds}");
    println!("{}", guest.sh(&connects(FIRST))?);
    // One connection that stays open is counted too.
    let mut sessions = FIRST * RATE + 1;
    agent.wait_for_ends(sessions)?;
    let before = held(&agent);
    // In parts, so that the figures distinguish growth from memory that was allocated once.
    for _ in 0..PARTS {
        let said = guest.sh_within(&connects(SECONDS / PARTS), Duration::from_mins(2))?;
        let rate: usize = said.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        if rate < ENOUGH {
            return Err(agent.failure(&format!("{rate} connects a second, not {RATE}")));
        }
        sessions += SECONDS / PARTS * RATE + 1;
        agent.wait_for_ends(sessions)?;
        println!("{said}; {:?}", held(&agent));
    }
    let after = held(&agent);
    if (after.descriptors, after.threads) != (before.descriptors, before.threads)
        || after.kib > before.kib + SLACK
    {
        return Err(agent.failure(&format!("had {before:?} and has {after:?}")));
    }
    println!("ok: {before:?} before a minute of {RATE} connects a second, and {after:?} after it");
    Ok(())
}

#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: u64,
    /// Resident memory, in KiB.
    kib: u64,
}

fn held(agent: &Agent) -> Held {
    let (descriptors, threads) = (agent.descriptors(), agent.status("Threads"));
    Held { descriptors, threads, kib: agent.status("VmRSS") }
}
