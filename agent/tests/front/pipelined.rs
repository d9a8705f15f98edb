//! Several options in one send: each is answered as if it had been sent alone, wherever the bytes are
//! split.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use support::{
    DEADLINE,
    agent::Agent,
    client::{OptionReply, greeted},
    wire::{
        self, CLIENT_FLAGS, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
        OPT_SET_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED, READ, export, request, simple_reply,
    },
};

use crate::BINARY;

type Message = (u32, Vec<u8>);

fn option(code: u32, data: &[u8]) -> Message {
    (code, data.to_vec())
}

fn contexts() -> Vec<u8> {
    let name = b"base:allocation";
    let len = u32::try_from(name.len()).unwrap();
    [&[0; 4][..], &1_u32.to_be_bytes(), &len.to_be_bytes(), name].concat()
}

fn bytes((code, data): &Message) -> Vec<u8> {
    wire::option(*code, data)
}

fn connect(socket: &Path) -> UnixStream {
    let mut stream = greeted(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&CLIENT_FLAGS).unwrap();
    stream
}

/// All bytes of the answer to one option.
fn answer(stream: &mut UnixStream, code: u32) -> Vec<u8> {
    if code == OPT_EXPORT_NAME {
        let mut reply = vec![0; 10];
        stream.read_exact(&mut reply).unwrap();
        return reply;
    }
    let mut all = Vec::new();
    loop {
        let reply = OptionReply::receive(stream).unwrap();
        all.extend(wire::option_reply(reply.option, reply.kind, &reply.data));
        if reply.is_last() {
            return all;
        }
    }
}

/// The answers to the options when they are sent one by one.
fn one_by_one(socket: &Path, options: &[Message]) -> Vec<u8> {
    let mut stream = connect(socket);
    let ask = |message: &Message| {
        stream.write_all(&bytes(message)).unwrap();
        answer(&mut stream, message.0)
    };
    options.iter().flat_map(ask).collect()
}

fn expect(stream: &mut UnixStream, expected: &[u8], what: &dyn std::fmt::Debug) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    assert!(got == expected, "{what:?}: {got:?} is not {expected:?}");
}

/// An agent that opens exports at once, and one that opens them on another thread.
fn agents() -> [Agent; 2] {
    let directory = Agent::start_by_in(
        std::process::Command::new(BINARY),
        |path| {
            std::fs::create_dir(path.join("d")).unwrap();
            std::fs::write(path.join("d/x"), [7; 4096]).unwrap();
        },
        "-U {}/s file dir={}/d",
    );
    [Agent::start(BINARY, "-U {}/s memory 1M"), directory]
}

#[test]
fn list_info_and_go_in_one_send_are_answered_at_every_cut() {
    for mut agent in agents() {
        let socket = agent.path("s");
        let options =
            [option(OPT_LIST, b""), option(OPT_INFO, &export("x")), option(OPT_GO, &export("x"))];
        let mut expected = one_by_one(&socket, &options);
        // A request after the options is answered too.
        let mut all: Vec<u8> = options.iter().flat_map(bytes).collect();
        all.extend(request(READ, 7, 0, 1));
        expected.extend(simple_reply(7, 0));
        for cut in 0..=all.len() {
            let mut stream = connect(&socket);
            stream.write_all(&all[..cut]).unwrap();
            // Sometimes the agent reads the first part before the second one arrives. There is no event to
            // wait for.
            if cut % 4 == 0 {
                thread::sleep(Duration::from_millis(3));
            }
            stream.write_all(&all[cut..]).unwrap();
            expect(&mut stream, &expected, &cut);
        }
        // Byte by byte.
        let mut stream = connect(&socket);
        for byte in &all {
            stream.write_all(&[*byte]).unwrap();
        }
        expect(&mut stream, &expected, &"byte by byte");
        agent.end();
    }
}

#[test]
fn any_options_in_one_send_are_answered_as_those_that_come_alone() {
    let choices = [
        option(OPT_LIST, b""),
        option(OPT_LIST, b"data"),
        option(OPT_INFO, &export("x")),
        option(OPT_INFO, &export("no/such")),
        option(OPT_INFO, b"\xff"),
        option(OPT_STRUCTURED, b""),
        option(OPT_SET_CONTEXT, &contexts()),
        option(OPT_STARTTLS, b""),
        option(99, &[0; 5000]),
        option(99, &[0; 9000]),
    ];
    let ends =
        [option(OPT_GO, &export("x")), option(OPT_EXPORT_NAME, b"x"), option(OPT_ABORT, b"")];
    for mut agent in agents() {
        let socket = agent.path("s");
        for first in &choices {
            for second in &choices {
                let end = &ends[(first.1.len() + second.1.len()) % 3];
                let options = [first.clone(), second.clone(), first.clone(), end.clone()];
                let codes = options.each_ref().map(|(code, data)| (*code, data.len()));
                let expected = one_by_one(&socket, &options);
                let mut stream = connect(&socket);
                stream.write_all(&options.iter().flat_map(bytes).collect::<Vec<_>>()).unwrap();
                expect(&mut stream, &expected, &codes);
            }
        }
        agent.end();
    }
}

#[test]
fn a_buffer_full_of_options_is_answered_to_the_last() {
    for mut agent in agents() {
        let socket = agent.path("s");
        let info = option(OPT_INFO, &export("x"));
        let one = one_by_one(&socket, std::slice::from_ref(&info));
        let mut stream = connect(&socket);
        let all: Vec<u8> = (0..5000).flat_map(|_| bytes(&info)).collect();
        let mut writes = stream.try_clone().unwrap();
        let writer = thread::spawn(move || writes.write_all(&all).unwrap());
        for n in 0..5000 {
            expect(&mut stream, &one, &n);
        }
        writer.join().unwrap();
        agent.end();
    }
}
