//! A guest that restarts during its writes, and an agent that is killed during them: what the guest had flushed is
//! there, and both continue.

use std::{fs::File, time::Duration};

use tests::{
    Failure, Outcome,
    agent::Agent,
    guest::Guest,
    lab::Lab,
    vhost_user::{debian, listen},
};

/// How often the agent is killed.
const KILLS: usize = 5;

const ROUNDS: &str = "python3 /tools/scripts/rounds.py";

#[test]
fn a_guest_restarts_in_the_middle_of_its_writes_and_goes_on() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_restart")? else { return Ok(()) };
    let socket = lab.path("vm");
    let disk = lab.path("disk");
    let made = File::create(&disk).and_then(|file| file.set_len(128 << 20));
    made.map_err(|e| Failure::of("no disk", &e))?;
    let words = ["supervise", "--", &listen(&socket), "file", &disk.to_string_lossy()];
    let agent = lab.agent(words)?;
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
    killed_under_a_filesystem(&agent, &mut guest)
}

/// The guest's vsock device, its block device and its filesystem survive the agent.
fn killed_under_a_filesystem(agent: &Agent, guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "a filesystem on a device of attach, and a program that syncs every file",
        "mkdir -p /run/lab /mnt/disk
         device=$(guest-tools attach --background nbd+vsock://2/)
         mkfs.ext4 -q -F $device
         mount $device /mnt/disk
         dmesg --clear
         echo 0 >/run/lab/synced
         systemd-run --quiet --unit writer -- sh -c '
             n=0
             while [ ! -e /run/lab/stop ]; do
                 n=$((n + 1))
                 echo $n >/mnt/disk/$n
                 sync /mnt/disk/$n || exit 1
                 echo $n >/run/lab/new
                 mv /run/lab/new /run/lab/synced
             done'",
    )?;
    for _ in 0..KILLS {
        guest.sh("before=$(cat /run/lab/synced)
             until [ $(cat /run/lab/synced) -gt $((before + 3)) ]; do sleep 0.05; done")?;
        agent.kill_supervised()?;
        println!("killed; {}", agent.wait_for("is taken over after")?);
    }
    guest.check(
        "every file that was synced is there, and the kernel has seen no error",
        "before=$(cat /run/lab/synced)
         until [ $(cat /run/lab/synced) -gt $((before + 3)) ]; do sleep 0.05; done
         touch /run/lab/stop
         while systemctl --quiet is-active writer; do sleep 0.1; done
         ! systemctl --quiet is-failed writer
         guest-tools status
         device=$(findmnt --noheadings --output SOURCE /mnt/disk)
         umount /mnt/disk
         e2fsck -f -n $device
         mount $device /mnt/disk
         for n in $(seq $(cat /run/lab/synced)); do [ \"$(cat /mnt/disk/$n)\" = $n ]; done
         umount /mnt/disk
         ! dmesg | grep -iE 'error|corrupt|timed out|call trace'
         guest-tools detach",
    )?;
    Ok(())
}

/// The last round that a console reports as flushed.
fn last_flushed(console: &[String]) -> Outcome<u64> {
    let rounds = console.iter().filter_map(|line| line.split("flushed ").nth(1)?.parse().ok());
    rounds.max().ok_or_else(|| Failure::new("the console tells of no round that was flushed"))
}
