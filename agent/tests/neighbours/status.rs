//! A storm of requests for the extents of a large sparse disk.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use support::{
    client::Client,
    wire::{OPT_EXTENDED, OPT_SET_CONTEXT, STATUS, extended},
};

use crate::{host::Host, work::storm};

const SIZE: u64 = 1 << 40;
/// The size in bytes of the chunks in which a memory disk keeps its pages.
const CHUNK: u64 = 4 << 20;
/// The number of chunks. Each has a page of 32 KiB.
const CHUNKS: u64 = 8192;
/// Answer with one extent.
const REQ_ONE: u16 = 1 << 3;
/// How many requests a connection sends at once.
const BATCH: usize = 500;
/// The processor time for one answer. The first extent is found in one or two microseconds; a walk over all
/// chunks took 190.
const EACH: Duration = Duration::from_micros(60);

fn ready(client: &mut Client<TcpStream>) {
    client.greet();
    client.option(OPT_EXTENDED, &[]);
    assert_eq!(client.option_reply().0, 1);
    let name = b"base:allocation";
    let query = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], name].concat();
    client.option(OPT_SET_CONTEXT, &query);
    while client.option_reply().0 != 1 {}
    assert_eq!(client.go(""), SIZE);
}

#[test]
fn block_status_of_all_of_a_large_sparse_memory_disk_delays_nobody() {
    let host = Host::start(&["memory", "1T"]);
    let mut writer = host.agent.open();
    (0..CHUNKS).for_each(|chunk| writer.write_at(chunk * CHUNK, b"x"));
    writer.disconnect();
    let (used, answers) = (host.used(), AtomicU64::new(0));
    storm(&host, 8, |stop| {
        let mut client = host.connect_noisy();
        ready(&mut client);
        let batch = extended(REQ_ONE, STATUS, 1, 0, SIZE).repeat(BATCH);
        // A header of 32 bytes, the context's number, the number of extents, and one extent of 16 bytes.
        let mut replies = vec![0; BATCH * (32 + 8 + 16)];
        while !stop.load(Ordering::Relaxed) {
            client.stream.write_all(&batch).expect("requests are taken");
            client.stream.read_exact(&mut replies).expect("replies come");
            answers.fetch_add(BATCH as u64, Ordering::Relaxed);
        }
    });
    let answers = u32::try_from(answers.into_inner()).expect("not so many");
    let each = host.used().saturating_sub(used) / answers;
    println!("{answers} answers, {each:?} of processor time for each");
    assert!(each <= EACH, "{each:?} for one extent");
}
