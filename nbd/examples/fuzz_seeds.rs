//! Writes the seeds of the fuzz targets: correct conversations, made by the crate itself, so that they match the
//! code. `fuzz/run` calls it.
//!
//! The first two bytes of a seed are the setting (`fuzz/lib.rs`): choices, and the length of a piece.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{env, fs, io, path::Path};

use nbd::{
    AgreedContext, BlockSizes, Framing, Gather, Terms,
    negotiate::{Ask, Context, Export, Offers, Server, Step},
    transmit::{Extent, ReadPiece, Replies, client::Client},
    wire::{
        ClientFlags, Command, CommandFlags, ContextQuery, Errno, ExtentFlags, InfoQuery, InfoType,
        OptionCode, Request, TransmissionFlags, put_option,
    },
};

const FRAMINGS: [(u8, Framing); 3] =
    [(0, Framing::Simple), (1, Framing::Structured), (2, Framing::Extended)];

fn main() -> io::Result<()> {
    let Some(root) = env::args_os().nth(1) else {
        return Err(io::Error::other("usage: fuzz_seeds DIRECTORY"));
    };
    let root = Path::new(&root);
    for (target, seeds) in [
        ("server_negotiation", negotiations()),
        ("server_transmission", transmissions()),
        ("client_replies", replies()),
    ] {
        let directory = root.join(target);
        fs::create_dir_all(&directory)?;
        for (index, (bits, bytes)) in seeds.into_iter().enumerate() {
            let seed = [&[bits, 6][..], &bytes].concat();
            fs::write(directory.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}

/// A client that sends every option and then enters an export.
fn asks(framing: Framing, by_name: bool) -> Vec<u8> {
    let mut out = Vec::new();
    (ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).put(&mut out);
    put_option(OptionCode::STARTTLS, &mut out, |_| ());
    put_option(OptionCode(4711), &mut out, |out| out.extend_from_slice(b"what?"));
    put_option(OptionCode::LIST, &mut out, |_| ());
    if framing == Framing::Structured {
        put_option(OptionCode::STRUCTURED_REPLY, &mut out, |_| ());
    }
    if framing == Framing::Extended {
        put_option(OptionCode::EXTENDED_HEADERS, &mut out, |_| ());
    }
    for option in [OptionCode::LIST_META_CONTEXT, OptionCode::SET_META_CONTEXT] {
        let queries = vec!["base:allocation", "base:", "x-other:leaf"];
        put_option(option, &mut out, |out| ContextQuery { name: "disk", queries }.put(out));
    }
    let wanted = vec![InfoType::NAME, InfoType::DESCRIPTION, InfoType::BLOCK_SIZE];
    for (option, name) in
        [(OptionCode::INFO, "disk"), (OptionCode::GO, "x-unknown"), (OptionCode::GO, "disk")]
    {
        if option == OptionCode::GO && name == "disk" && by_name {
            put_option(OptionCode::EXPORT_NAME, &mut out, |out| out.extend_from_slice(b"disk"));
        } else {
            let wanted = wanted.clone();
            put_option(option, &mut out, |out| InfoQuery { name, wanted }.put(out));
        }
    }
    out
}

fn negotiations() -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (_, framing) in FRAMINGS {
        for by_name in [false, true] {
            seeds.push((0, asks(framing, by_name)));
        }
    }
    let mut leaves = asks(Framing::Simple, false);
    leaves.truncate(4);
    put_option(OptionCode::ABORT, &mut leaves, |_| ());
    seeds.push((0, leaves.clone()));
    // A client that starts TLS, with a server that has it or requires it.
    leaves.truncate(4);
    put_option(OptionCode::LIST, &mut leaves, |_| ());
    put_option(OptionCode::STARTTLS, &mut leaves, |_| ());
    seeds.extend([(0x80, leaves.clone()), (0x81, leaves)]);
    seeds
}

/// With two contexts, as the target `client_replies` has them.
fn contexts(framing: Framing) -> Vec<AgreedContext> {
    let names = ["base:allocation", "qemu:dirty-bitmap:b"];
    let all = names.into_iter().zip(1..).map(|(name, id)| AgreedContext::new(id, name));
    all.filter(|_| framing > Framing::Simple).collect()
}

fn terms(framing: Framing) -> Terms {
    let mut flags = TransmissionFlags::from_bits_retain(0x0ffd);
    flags.set(TransmissionFlags::SEND_DF, framing > Framing::Simple);
    Terms {
        size: 1 << 21,
        flags,
        framing,
        contexts: contexts(framing),
        blocks: BlockSizes::default(),
        unit: 1,
    }
}

/// Every request, over the first 4 KiB.
fn transmissions() -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (bits, framing) in FRAMINGS {
        let mut client = Client::new(terms(framing));
        let mut out = Vec::new();
        client.write(5, 3, true, &mut out).unwrap();
        out.extend_from_slice(b"abc");
        client.read(1, 64, false, &mut out).unwrap();
        client.flush(&mut out).unwrap();
        client.trim(512, 512, false, &mut out).unwrap();
        client.zero(0, 512, CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO, &mut out).unwrap();
        client.cache(0, 4096, &mut out).unwrap();
        if framing > Framing::Simple {
            client.read(0, 4096, true, &mut out).unwrap();
            client.extents(0, 4096, true, &mut out).unwrap();
            client.extents(0, 4096, false, &mut out).unwrap();
        }
        client.disconnect(&mut out);
        seeds.push((bits, out));
    }
    seeds
}

/// The answers of a server to `asks`, and to the requests of the target `client_replies`.
fn replies() -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    // The target's questions: list, info, go, go with a context; then go.
    for question in 0..4 {
        for (bits, framing) in FRAMINGS {
            seeds.push((bits | question << 4, served(framing, question)));
        }
    }
    for (bits, framing) in FRAMINGS {
        seeds.push((bits | 4, answered(framing)));
    }
    seeds
}

fn served(framing: Framing, question: u8) -> Vec<u8> {
    let mut client = nbd::negotiate::Client::start(framing);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut all = Vec::new();
    let mut server = Server::start(Offers::default(), &mut down);
    let mut asked = false;
    loop {
        use nbd::negotiate::ClientStep;
        all.extend_from_slice(&down);
        let (_, step) = client.step(&std::mem::take(&mut down), &mut up);
        client = match step {
            ClientStep::Feed(client) => client,
            ClientStep::Done(..) => return all,
            ClientStep::Ready(ready)
            | ClientStep::Listed(ready, _)
            | ClientStep::Told(ready, _)
            | ClientStep::Contexts(ready, _)
            | ClientStep::Refused(ready, _) => {
                let first = !std::mem::replace(&mut asked, true);
                match question {
                    0 if first => ready.list(&mut up),
                    1 if first => ready.info("disk", &mut up),
                    2 => ready.go("disk", false, &mut up),
                    _ => ready.go("disk", true, &mut up),
                }
            }
            ClientStep::End(violation) => panic!("{violation}"),
            ClientStep::StartTls(tls) => panic!("{tls:?}"),
        };
        let input = std::mem::take(&mut up);
        let (eaten, step) = server.step(&input, &mut down);
        assert_eq!(eaten, input.len());
        server = match step {
            Step::Feed(server) => server,
            Step::Ask(Ask::List(ask)) => {
                match ask.answer(Ok([("", None), ("disk", Some("a disk"))]), &mut down) {
                    Step::Feed(server) => server,
                    other => panic!("{other:?}"),
                }
            }
            Step::Ask(Ask::Export(ask)) => match ask.answer(Ok(export()), &mut down) {
                Step::Feed(server) => server,
                // The client takes the answer in the next round.
                Step::Done(_) => Server::start(Offers::default(), &mut Vec::new()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
    }
}

fn export() -> Export {
    Export {
        size: 1 << 20,
        flags: TransmissionFlags::from_bits_retain(0x0ffd),
        blocks: BlockSizes::default(),
        unit: 1,
        name: None,
        description: Some("a disk".to_owned()),
        contexts: vec![Context::with_extents("base:allocation")],
    }
}

fn answered(framing: Framing) -> Vec<u8> {
    let terms = terms(framing);
    let mut out = Gather::default();
    let mut replies = Replies { out: &mut out, terms: &terms };
    let request = |cookie, command, offset, len| Request {
        flags: CommandFlags::empty(),
        command,
        cookie,
        offset,
        len,
    };
    let data = |len| ReadPiece::Data(vec![7; len]);
    // The cookies and ranges of the target's requests.
    replies.read(&request(1, Command::READ, 0, 100), false, [data(100)].into_iter());
    let pieces = [data(96), ReadPiece::Hole(3900), data(100)];
    replies.read(&request(2, Command::READ, 512, 4096), false, pieces.into_iter());
    replies.error(&request(3, Command::READ, 1 << 20, 1 << 19), Errno::EIO, "a bad sector");
    replies.done(&request(4, Command::WRITE, 0, 10));
    replies.error(&request(5, Command::FLUSH, 0, 0), Errno::ENOSPC, "full");
    replies.done(&request(6, Command::WRITE_ZEROES, 5, 1000));
    if framing > Framing::Simple {
        replies.read(&request(7, Command::READ, 0, 64), true, [data(64)].into_iter());
        let extent = |len, flags| Extent { len, flags };
        let extents = [extent(1000, ExtentFlags::empty()), extent(4000, ExtentFlags::HOLE)];
        let status = request(8, Command::BLOCK_STATUS, 512, 5000);
        replies.extents(&status, false, |_| extents);
        let status = request(9, Command::BLOCK_STATUS, 512, 5000);
        replies.extents(&status, true, |_| extents);
    }
    let mut slices = Vec::new();
    out.slices(usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}
