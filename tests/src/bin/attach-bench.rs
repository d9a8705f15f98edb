//! Measures the cost of the kernel and of the relay, in one guest over the agent's vhost-user device. fio on a
//! disk of `guest-tools attach`, through the nbd driver and through the ublk driver, is compared with
//! `guest-tools bench`, which needs no kernel driver. Two more runs show the share of the kernel and of fio: fio
//! on the kernel's own nbd connection to an agent in the guest (over a Unix socket, because it accepts no
//! vsock), and fio on null_blk. Before that, `info` and `copy` are compared with nbdinfo and nbdcopy, over the
//! same vsock. Argument: the number of rounds (default 3).
//!
//! Needs what boots guests. Without KVM the rates are those of an emulated guest, and only the ratios are
//! meaningful.

use std::process::ExitCode;

use images::Images;
use tests::{Failure, Outcome, agent::Agent, guest::Guest, vhost_user};

/// fio's options, those of `guest-tools bench`, and a title.
const CASES: [(&str, &str, &str); 3] = [
    (
        "4 KiB random reads, depth 16",
        "--rw=randread --bs=4k --iodepth=16",
        "randread --size 4k --depth 16",
    ),
    (
        "256 KiB sequential reads, depth 4",
        "--rw=read --bs=256k --iodepth=4",
        "read --size 256k --depth 4",
    ),
    (
        "256 KiB sequential writes, depth 4",
        "--rw=write --bs=256k --iodepth=4",
        "write --size 256k --depth 4",
    ),
];

const START: &str = ". /tools/scripts/lab.sh
    serve memory --unix /run/lab/socket memory 256M
    for uri in nbd+vsock://2/ 'nbd+unix:///?socket=/run/lab/socket'; do
        guest-tools write --pattern --length 256M $uri
    done
    guest-tools attach --background --connections 1 --device /dev/nbd0
    guest-tools attach --background --connections 1 --ublk
    modprobe null_blk nr_devices=1
    guest-tools attach --direct --connections 1 --device /dev/nbd1 'nbd+unix:///?socket=/run/lab/socket'";

/// Times both tools, one after the other, and prints the medians and their ratio.
const TOOLS: &str = "python3 - ROUNDS <<'END'
import statistics, subprocess, sys, time
uri = 'nbd+vsock://2/'
for name, ours, theirs in [
    ('info', ['guest-tools', 'info', uri], ['nbdinfo', '--no-content', uri]),
    ('copy to null:', ['guest-tools', 'copy', '--quiet', uri, 'null:'], ['nbdcopy', uri, 'null:']),
    ('copy to a file', ['guest-tools', 'copy', '--quiet', '--no-flush', uri, '/run/lab/made'],
     ['nbdcopy', uri, '/run/lab/made']),
    ('copy from a file', ['guest-tools', 'copy', '--quiet', '/run/lab/made', uri],
     ['nbdcopy', '--flush', '/run/lab/made', uri]),
]:
    took = ([], [])
    for turn in range(2 * int(sys.argv[1])):
        begun = time.monotonic()
        subprocess.run((ours, theirs)[turn % 2], check=True, stdout=subprocess.DEVNULL)
        took[turn % 2].append(time.monotonic() - begun)
    our, their = map(statistics.median, took)
    print(f'{name}: guest-tools {our * 1e3:.0f} ms, libnbd {their * 1e3:.0f} ms, ratio {our / their:.2f}')
END";

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    match run(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(rounds: usize) -> Outcome<()> {
    let images = Images::of_this_workspace()?;
    let dir = tempfile::tempdir().map_err(|e| Failure::of("no directory", &e))?;
    let socket = dir.path().join("vm");
    let listen = vhost_user::listen(&socket);
    let _agent = Agent::start(&images, [&*listen, "memory", "256M"])?;
    let mut guest = vhost_user::debian("attach-bench", &socket)?;
    guest.sh(START)?;
    println!("{}", guest.sh(&TOOLS.replace("ROUNDS", &rounds.to_string()))?);
    for (name, fio, bench) in CASES {
        let (mut by_nbd, mut by_ublk, mut by_direct) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            let bare = number(&mut guest, &bench_rate(bench))?;
            let nbd = number(&mut guest, &fio_rate("/dev/nbd0", fio))?;
            let ublk = number(&mut guest, &fio_rate("/dev/ublkb0", fio))?;
            let nothing = number(&mut guest, &fio_rate("/dev/nullb0", fio))?;
            let direct = number(&mut guest, &fio_rate("/dev/nbd1", fio))?;
            println!(
                "round {round}, {name}: nbd {nbd:.0}/s, ublk {ublk:.0}/s, kernel's own {direct:.0}/s, no \
                 kernel {bare:.0}/s, no disk {nothing:.0}/s"
            );
            by_nbd.push(nbd / bare);
            by_ublk.push(ublk / bare);
            by_direct.push(direct / bare);
        }
        println!(
            "{name}, of the rate without a kernel: nbd {}, ublk {}, kernel's own {}",
            median(by_nbd),
            median(by_ublk),
            median(by_direct)
        );
    }
    Ok(())
}

fn median(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |index: usize| ratios.get(index).copied().unwrap_or_default();
    format!("{:.2} ({:.2} to {:.2})", at(ratios.len() / 2), at(0), at(ratios.len() - 1))
}

fn fio_rate(device: &str, words: &str) -> String {
    let rate = "import json, sys; job = json.load(sys.stdin)['jobs'][0]; \
                print(job['read']['iops'] + job['write']['iops'])";
    format!(
        "fio --name=x --filename={device} --direct=1 --ioengine=libaio --time_based --runtime=5 \
         --output-format=json {words} | python3 -c \"{rate}\""
    )
}

fn bench_rate(words: &str) -> String {
    let destroy = if words.starts_with("write") { "--destroy" } else { "" };
    let rate = "import json, sys; print(json.load(sys.stdin)['cases'][0]['rate'])";
    format!(
        "guest-tools bench --json {destroy} --time 5s --mode {words} \
         | python3 -c \"{rate}\""
    )
}

fn number(guest: &mut Guest, script: &str) -> Outcome<f64> {
    let said = guest.sh(script)?;
    let last = said.lines().last().unwrap_or_default();
    last.trim().parse().map_err(|_| Failure::new(format!("no number from {script}: {said}")))
}
