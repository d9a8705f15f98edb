//! The agent against nbdkit over the kernel's own vhost-vsock. Both run on the VM host, and a guest of it
//! measures them in turn with `guest-tools bench`. Argument: the number of rounds (default 3).
//!
//! Needs what boots guests. Without KVM the VM host is emulated, and its guest is emulated in it: the rates are
//! a fraction of real ones, and only the ratios are meaningful.

use std::process::ExitCode;

use serde_json::Value;
use tests::{
    Failure, Outcome,
    guest::Guest,
    nest::{self, Inner},
};
use vsock_cid::GuestCid;

const CASES: [(&str, &str); 2] = [
    ("4 KiB random reads, depth 16", "--mode randread --size 4k --depth 16"),
    ("256 KiB sequential reads, depth 4", "--mode read --size 256k --depth 4"),
];
/// The ports of the agent and of nbdkit.
const PORTS: [u32; 2] = [10809, 10811];

const START: &str = ". /tools/scripts/lab.sh
    modprobe vhost_vsock
    serve agent --vsock memory 16M
    systemd-run --quiet --collect --unit nbdkit nbdkit -f --vsock -p 10811 memory 16M";

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    match run(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nested-bench: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(rounds: usize) -> Outcome<()> {
    let mut host = Guest::boot("nested-bench")?;
    host.sh(START)?;
    // The disk is filled first, because a hole would be answered without its bytes.
    let mut commands: Vec<String> = PORTS
        .iter()
        .map(|port| format!("write --pattern --length 16M nbd+vsock://2:{port}/"))
        .collect();
    for round in 0..rounds {
        for (_, case) in CASES {
            for turn in 0..PORTS.len() {
                let port = PORTS[(turn + round) % PORTS.len()];
                commands.push(format!("bench --json --time 3s {case} nbd+vsock://2:{port}/"));
            }
        }
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let cid = GuestCid::MIN;
    println!("nested-bench: the inner guest (minutes)");
    let consoles = nest::run(&mut host, &[(Inner::Tiny(&commands), cid)])?;
    let console = consoles.first().map(String::as_str).unwrap_or_default();
    let rates = rates(console)?;
    if rates.len() != rounds * CASES.len() * PORTS.len() {
        return Err(host.failure(&format!("not every bench has said its figures:\n{console}")));
    }
    let mut ratios = vec![Vec::new(); CASES.len()];
    for (index, pair) in rates.chunks(PORTS.len()).enumerate() {
        let (round, case) = (index / CASES.len(), index % CASES.len());
        let (agent, nbdkit) = if round % 2 == 0 { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
        println!(
            "round {}: {}: agent {agent:.0}/s, nbdkit {nbdkit:.0}/s",
            round + 1,
            CASES[case].0
        );
        ratios[case].push(agent / nbdkit);
    }
    for ((title, _), mut ratios) in CASES.iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let at = |place: usize| ratios.get(place).copied().unwrap_or(f64::NAN);
        println!(
            "{title}: agent by nbdkit {:.2} ({:.2} to {:.2})",
            at(ratios.len() / 2),
            at(0),
            at(ratios.len() - 1)
        );
    }
    Ok(())
}

/// The rates of all benches, in order. Each prints one JSON object over several lines.
fn rates(console: &str) -> Outcome<Vec<f64>> {
    let mut rates = Vec::new();
    let mut lines = console.lines().map(str::trim_end);
    while lines.any(|line| line == "{") {
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
        let text = format!("{{{}}}", body.join("\n"));
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| Failure::of(&format!("no JSON on the console: {text}"), &e))?;
        let rate = value["cases"][0]["rate"].as_f64();
        rates.push(rate.ok_or_else(|| Failure::new(format!("no rate in {text}")))?);
    }
    Ok(rates)
}
