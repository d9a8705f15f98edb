use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
};

use nbd::{Uri, uri::Place};

use super::*;
use crate::Connector;

/// A greeting with NBD_FLAG_FIXED_NEWSTYLE and NBD_FLAG_NO_ZEROES.
const MAGIC: [&[u8]; 3] = [b"NBDMAGIC", b"IHAVEOPT", &[0, 3]];

/// Serves one client by hand. After the negotiation it passes the stream to `then`.
fn server(
    size: u64,
    then: impl FnOnce(&mut dyn Stream) + Send + 'static,
) -> (Uri, tempfile::TempDir, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&MAGIC.concat()).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        greet(&mut stream, size);
        then(&mut stream);
    });
    let socket = path.to_str().unwrap().as_bytes().to_vec();
    (Uri::plain(Place::Unix { socket }, String::new()), dir, served)
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Refuses every option but NBD_OPT_GO, and answers that with the size and all flags.
fn greet(stream: &mut impl Stream, size: u64) {
    const GO: u32 = 7;
    const ACK: u32 = 1;
    const INFO: u32 = 3;
    const UNSUP: u32 = 1 << 31 | 1;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let (option, len) = (word(8), word(12));
        stream.read_exact(&mut vec![0; len as usize]).unwrap();
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            let len = u32::try_from(data.len()).unwrap();
            for word in [option, kind, len] {
                bytes.extend(word.to_be_bytes());
            }
            bytes.extend(data);
            stream.write_all(&bytes).unwrap();
        };
        if option == GO {
            let flags = 0b0110_1101_u16;
            reply(INFO, &[&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat());
            reply(ACK, &[]);
            return;
        }
        reply(UNSUP, &[]);
    }
}

/// A request's header: its cookie and its length.
fn request(stream: &mut dyn Stream) -> (u64, u32) {
    let mut header = [0; 28];
    stream.read_exact(&mut header).unwrap();
    let cookie = u64::from_be_bytes(header[8..16].try_into().unwrap());
    (cookie, u32::from_be_bytes(header[24..28].try_into().unwrap()))
}

fn reply(stream: &mut dyn Stream, errno: u32, cookie: u64, data: &[u8]) {
    let mut bytes = 0x6744_6698_u32.to_be_bytes().to_vec();
    bytes.extend(errno.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes).unwrap();
}

#[test]
fn answers_in_any_order_and_in_small_pieces_find_their_orders() {
    const LEN: usize = 100_000;
    let (uri, _dir, served) = server(1 << 20, |stream| {
        let asked: Vec<_> = (0..4).map(|_| request(stream)).collect();
        for (n, (cookie, len)) in asked.iter().enumerate().rev() {
            let data = vec![u8::try_from(n).unwrap() + 1; *len as usize];
            let mut bytes = 0x6744_6698_u32.to_be_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(cookie.to_be_bytes());
            bytes.extend(data);
            bytes.chunks(4097).for_each(|piece| stream.write_all(piece).unwrap());
        }
    });
    let mut link = Connector::new(Timeout::default()).open(&uri).unwrap();
    for n in 0..4_u64 {
        let room = vec![0xff; 7];
        link.submit(Order::read(n * LEN as u64, LEN as u64, room).tagged(n)).unwrap();
    }
    for n in [3, 2, 1, 0] {
        let done = link.next_good().unwrap();
        assert_eq!(done.order.tag, n);
        assert_eq!(done.order.bytes, vec![u8::try_from(n).unwrap() + 1; LEN]);
    }
    assert_eq!(link.under_way(), 0);
    served.join().unwrap();
}

#[test]
fn a_server_that_answers_before_it_reads_on_blocks_nobody() {
    // More than the two sockets can hold, in both directions at once.
    const LEN: usize = 4 << 20;
    let (uri, _dir, served) = server(1 << 30, |stream| {
        let (read, len) = request(stream);
        let (write, more) = request(stream);
        reply(stream, 0, read, &vec![7; len as usize]);
        stream.read_exact(&mut vec![0; more as usize]).unwrap();
        reply(stream, 0, write, &[]);
    });
    let mut link = Connector::new(Timeout::default()).open(&uri).unwrap();
    link.submit(Order::read(0, LEN as u64, Vec::new())).unwrap();
    link.submit(Order::write(0, vec![1; LEN], false)).unwrap();
    assert_eq!(link.next_good().unwrap().order.verb, Verb::Read);
    assert_eq!(link.next_good().unwrap().order.verb, Verb::Write { fua: false });
    served.join().unwrap();
}

#[test]
fn a_write_that_is_failed_by_its_header_still_leaves_whole() {
    const LEN: usize = 4 << 20;
    let (uri, _dir, served) = server(1 << 30, |stream| {
        let (write, len) = request(stream);
        reply(stream, 28, write, &[]);
        stream.read_exact(&mut vec![0; len as usize]).unwrap();
        let (flush, _) = request(stream);
        reply(stream, 0, flush, &[]);
    });
    let mut link = Connector::new(Timeout::default()).open(&uri).unwrap();
    link.submit(Order::write(0, vec![1; LEN], false)).unwrap();
    let done = link.next_done().unwrap();
    assert_eq!(done.result.unwrap_err().errno, nbd::wire::Errno::ENOSPC);
    link.submit(Order::bare(Verb::Flush, 0, 0)).unwrap();
    link.next_good().unwrap();
    served.join().unwrap();
}

#[test]
fn what_a_broken_connection_leaves_is_given_back_in_order() {
    let (uri, _dir, served) = server(1 << 20, |stream| {
        let asked: Vec<_> = (0..3).map(|_| request(stream)).collect();
        reply(stream, 0, asked[1].0, &[5; 512]);
    });
    let mut link = Connector::new(Timeout::default()).open(&uri).unwrap();
    for n in 0..3 {
        link.submit(Order::read(n * 512, 512, Vec::new()).tagged(n)).unwrap();
    }
    assert_eq!(link.next_good().unwrap().order.tag, 1);
    assert!(matches!(link.next_done(), Err(ClientError::Closed { .. } | ClientError::Lost { .. })));
    let left: Vec<_> = link.unanswered().iter().map(|order| order.tag).collect();
    assert_eq!(left, [0, 2]);
    served.join().unwrap();
}

#[test]
fn borrowed_bytes_are_sent_whole_and_in_order_though_the_server_reads_slowly() {
    const LEN: usize = 3 << 20;
    let bytes: Vec<u8> = (0..LEN).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
    let expected = bytes.clone();
    let (uri, _dir, served) = server(8 << 20, move |stream| {
        for at in 0..2 {
            let (cookie, len) = request(stream);
            assert_eq!(len as usize, LEN);
            let mut data = vec![0; LEN];
            stream.read_exact(&mut data).unwrap();
            assert!(data == expected, "write {at}");
            reply(stream, 0, cookie, &[]);
        }
    });
    let mut client = Connector::new(Timeout::default()).open(&uri).unwrap();
    let runs: Vec<_> = bytes.chunks(4096).collect();
    // The second one finds the first in the queue.
    for _ in 0..2 {
        let order = Order { len: LEN as u64, ..Order::write(0, Vec::with_capacity(LEN), false) };
        client.submit_write(order, &runs).unwrap();
    }
    for _ in 0..2 {
        client.next_good().unwrap();
    }
    client.close();
    served.join().unwrap();
}

#[test]
fn an_abandoned_read_holds_no_memory_and_others_go_on() {
    let (uri, _dir, served) = server(1 << 20, |stream| {
        let asked: Vec<_> = (0..2).map(|_| request(stream)).collect();
        for (cookie, len) in asked {
            reply(stream, 0, cookie, &vec![7; len as usize]);
        }
    });
    let mut client = Connector::new(Timeout::default()).open(&uri).unwrap();
    for tag in [1, 2] {
        client.submit(Order::read(0, 100_000, Vec::new()).tagged(tag)).unwrap();
    }
    client.abandon(1);
    assert!(client.flying.values().any(|done| done.order.bytes.capacity() == 0));
    let mut done = [client.next_good().unwrap(), client.next_good().unwrap()];
    done.sort_by_key(|done| done.order.tag);
    assert_eq!(done[1].order.bytes, vec![7; 100_000]);
    client.close();
    served.join().unwrap();
}

#[test]
fn a_turn_that_is_bounded_says_that_there_is_more() {
    const LEN: u64 = 4 << 20;
    let (uri, _dir, served) = server(LEN, |stream| {
        let (cookie, len) = request(stream);
        reply(stream, 0, cookie, &vec![7; len as usize]);
    });
    let mut client = Connector::new(Timeout::default()).open(&uri).unwrap();
    client.submit(Order::read(0, LEN, Vec::new())).unwrap();
    let mut busy = 0;
    let done = loop {
        match client.turn_within(1).unwrap() {
            Turned::Busy => busy += 1,
            Turned::Idle => wait(&[&client]).unwrap(),
        }
        if let Some(done) = client.pop() {
            break done;
        }
    };
    assert_eq!(done.order.bytes, vec![7; 4 << 20]);
    assert!(busy > 4, "it was received in {busy} turns");
    client.close();
    served.join().unwrap();
}

#[test]
fn a_client_that_closes_in_the_middle_of_a_write_sends_nothing_after_it() {
    const LEN: usize = 4 << 20;
    let (uri, _dir, served) = server(1 << 30, |stream| {
        request(stream);
        let mut payload = Vec::new();
        // The end of the stream may be an error here.
        stream.read_to_end(&mut payload).ok();
        assert!(payload.len() < LEN && payload.iter().all(|byte| *byte == 1));
    });
    let mut link = Connector::new(Timeout::default()).open(&uri).unwrap();
    link.submit(Order::write(0, vec![1; LEN], false)).unwrap();
    link.turn_within(1).unwrap();
    link.close();
    served.join().unwrap();
}
