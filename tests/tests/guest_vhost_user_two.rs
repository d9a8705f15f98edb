//! Two machines, two sockets, two disks, at the same time. Neither sees data of the other.

use std::time::Duration;

use tests::{Outcome, lab::Lab, vhost_user::tiny};

const PATIENCE: Duration = Duration::from_mins(3);

#[test]
fn two_machines_never_see_each_others_disks() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_two")? else { return Ok(()) };
    let sockets = ["one", "two"].map(|name| lab.path(name));
    let mut agents = Vec::new();
    for socket in &sockets {
        agents.push(lab.agent_for(socket, &["memory", "32M"])?);
    }
    // The blocks of a run encode its seed. Without different seeds, equal requests would leave
    // equal blocks on one disk.
    let run = |seed| format!("test --destroy --length 8M --seed {seed}");
    let mut guests = Vec::new();
    for (socket, seed) in sockets.iter().zip(["1111", "2222"]) {
        let commands = [run(seed), run(seed), "test --read-only".to_owned()];
        let name = format!("vhost-user-two-{seed}");
        let commands = commands.each_ref().map(String::as_str);
        guests.push((tiny(&lab, &name, socket, &commands)?, seed));
    }
    // Both have begun before either is done: the first run of each ends while the other is running.
    for (guest, _) in &mut guests {
        guest.wait_for("guest-tools: run: test", PATIENCE)?;
    }
    for (guest, seed) in &mut guests {
        let console = guest.wait_for_end(PATIENCE)?;
        let right = format!("seed {seed}");
        let done =
            console.iter().filter(|line| line.contains("are right") && line.ends_with(&right));
        if done.count() != 3 {
            return Err(guest.failure(&format!("did not find {right} on its disk three times")));
        }
    }
    println!("ok: each wrote its own disk at the same time, and found on it what it wrote");
    // The next machine on a socket finds that socket's disk.
    for (socket, seed) in sockets.iter().zip(["1111", "2222"]) {
        let mut guest = tiny(&lab, "vhost-user-two-next", socket, &["test --read-only"])?;
        guest.wait_for(&format!("seed {seed}"), PATIENCE)?;
        guest.wait_for_end(PATIENCE)?;
    }
    println!("ok: the next machine on a socket finds that socket's disk");
    Ok(())
}
