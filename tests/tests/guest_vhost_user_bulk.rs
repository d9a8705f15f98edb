//! 10 GiB in each direction. Every 8 bytes are their own offset, and the other side checks all of them.
//! That proves more than a checksum, and no place needs room for 10 GiB.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tests::{
    Failure, Outcome,
    lab::Lab,
    vhost_user::{listen, tiny},
};

const GIB: u64 = 1 << 30;
const ALL: u64 = 10 * GIB;
/// How much the guest writes at a time, in bytes. While it writes the next part, the host checks this
/// one and frees its memory.
const PART: u64 = ALL / 8;
const PATIENCE: Duration = Duration::from_mins(10);

#[test]
fn ten_gibibytes_into_a_guest_and_out_of_it_are_whole() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_bulk")? else { return Ok(()) };
    let (vm, host) = (lab.path("vm"), lab.path("host"));

    let agent = lab.agent_for(&vm, &["pattern", "10G"])?;
    let begun = Instant::now();
    let mut guest = tiny(&lab, "vhost-user-bulk-read", &vm, &["read --verify-pattern"])?;
    guest.wait_for(&format!("{ALL} bytes at 0 are the pattern"), PATIENCE)?;
    guest.wait_for_end(PATIENCE)?;
    println!("ok: the guest read 10 GiB and looked at all of it ({:.0?})", begun.elapsed());
    drop(agent);

    let beside = format!("--listen=unix:{}", host.display());
    let agent = lab.agent([&listen(&vm), &beside, "memory", "10G"])?;
    let begun = Instant::now();
    let parts = || (0..ALL).step_by(usize::try_from(PART).unwrap_or(usize::MAX));
    let writes: Vec<_> =
        parts().map(|at| format!("write --pattern --offset {at} --length {PART}")).collect();
    let writes: Vec<_> = writes.iter().map(String::as_str).collect();
    let mut guest = tiny(&lab, "vhost-user-bulk-write", &vm, &writes)?;
    let tools = lab.images().binaries()?.guest_tools;
    for at in parts() {
        guest.wait_for(&format!("written at {at}"), PATIENCE)?;
        let range = format!("--offset={at} --length={PART}");
        on_the_host(&tools, &format!("read --verify-pattern {range}"), &host)?;
        on_the_host(&tools, &format!("trim {range}"), &host)?;
    }
    guest.wait_for_end(PATIENCE)?;
    println!("ok: the host looked at all of 10 GiB that the guest wrote ({:.0?})", begun.elapsed());
    let held = agent.status("VmHWM") << 10;
    println!("the agent held {} MiB at most", held >> 20);
    if held > 4 * PART {
        return Err(agent.failure(&format!("held {held} bytes, though parts were trimmed")));
    }
    Ok(())
}

fn on_the_host(tools: &Path, words: &str, socket: &Path) -> Outcome<()> {
    let mut command = Command::new(tools);
    command.args(words.split(' ')).arg(format!("nbd+unix:///?socket={}", socket.display()));
    let run = command.output().map_err(|e| Failure::of("guest-tools on the host", &e))?;
    let said = String::from_utf8_lossy(&run.stderr);
    run.status
        .success()
        .then_some(())
        .ok_or_else(|| Failure::new(format!("guest-tools {words}: {said}")))
}
