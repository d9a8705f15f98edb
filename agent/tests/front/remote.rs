//! The plugin `nbd`: another server's disk, with the properties that it has there.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    thread,
};

use support::{
    agent::{Agent, NBDKIT},
    process::{self, assert_refuses, python, succeeds},
    until,
};

use crate::BINARY;

fn prints(program: &str, words: &[&str]) -> String {
    succeeds(program, "libnbd-bin", words)
}

pub(crate) fn uri(agent: &Agent) -> String {
    format!("nbd+unix:///?socket={}", agent.path("s").display())
}

pub(crate) fn proxy(words: &[&str]) -> Agent {
    Agent::start_with(Command::new(BINARY), "-U {}/s nbd", words)
}

/// The parts of `nbdinfo --json` about the disk.
fn facts(uri: &str) -> Vec<String> {
    let all = prints("nbdinfo", &["--json", uri]);
    let about = |line: &&str| {
        !["\"uri\"", "\"TLS\"", "\"structured\"", "\"content\""]
            .iter()
            .any(|key| line.contains(key))
    };
    all.lines().filter(about).map(str::to_owned).collect()
}

#[test]
fn a_disk_is_the_same_through_the_proxy() {
    for (program, words) in [
        (BINARY, &["memory", "8M"][..]),
        (BINARY, &["--filter=readonly", "pattern", "8M"]),
        (
            BINARY,
            &[
                "--filter=blocksize-policy",
                "--filter=multi-conn",
                "memory",
                "8M",
                "blocksize-minimum=512",
                "blocksize-error-policy=error",
                "multi-conn-mode=disable",
            ],
        ),
        (NBDKIT, &["-f", "memory", "8M"]),
        (NBDKIT, &["-f", "--no-sr", "memory", "8M"]),
        (NBDKIT, &["-f", "--filter=nozero", "--filter=noextents", "data", "1 @0x7fffff 2"]),
    ] {
        let far = Far::start(program, words);
        let proxy = proxy(&[&format!("socket={}", far.socket.display())]);
        let ours = facts(&uri(&proxy));
        if program == BINARY {
            assert_eq!(ours, facts(&far.uri()), "{words:?}");
        }
        let (dir, writable) = (tempfile::tempdir().unwrap(), !words.contains(&"pattern"));
        if writable {
            let image = dir.path().join("image");
            let file = fs::File::create(&image).unwrap();
            file.set_len(8 << 20).unwrap();
            let bytes: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
            file.write_all_at(&bytes, 1 << 20).unwrap();
            prints("nbdcopy", &[image.to_str().unwrap(), &uri(&proxy)]);
            let back = dir.path().join("back");
            prints("nbdcopy", &[&far.uri(), back.to_str().unwrap()]);
            assert!(fs::read(&image).unwrap() == fs::read(&back).unwrap(), "{words:?}");
        }
        let back = dir.path().join("through");
        prints("nbdcopy", &[&uri(&proxy), back.to_str().unwrap()]);
        let direct = dir.path().join("direct");
        prints("nbdcopy", &[&far.uri(), direct.to_str().unwrap()]);
        assert!(fs::read(&back).unwrap() == fs::read(&direct).unwrap(), "{words:?}");
        let map = |uri: &str| prints("nbdinfo", &["--map", uri]);
        if !["--no-sr", "--filter=noextents", "pattern"].iter().any(|word| words.contains(word)) {
            assert_eq!(map(&uri(&proxy)), map(&far.uri()), "{words:?}");
        }
    }
}

/// A server on a Unix socket, which is ended when dropped.
pub(crate) struct Far {
    pub(crate) child: std::process::Child,
    pub(crate) socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Far {
    pub(crate) fn start(program: &str, words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_at(program, words, dir)
    }

    pub(crate) fn start_at(program: &str, words: &[&str], dir: tempfile::TempDir) -> Self {
        let socket = dir.path().join("far");
        let mut command = Command::new(program);
        let child = command.arg("-U").arg(&socket).args(words).spawn().unwrap();
        let server = Self { child, socket, _dir: dir };
        server.wait_until_it_listens();
        server
    }

    /// Kills the server and starts it again on the same socket.
    pub(crate) fn die_and_come_again(&mut self, program: &str, words: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_file(&self.socket).unwrap();
        self.child = Command::new(program).arg("-U").arg(&self.socket).args(words).spawn().unwrap();
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        until("the server listens", || UnixStream::connect(&self.socket).is_ok());
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn every_way_to_name_the_server_leads_to_it() {
    let far = Far::start(BINARY, &["--listen", "tcp:127.0.0.1:0", "--print-uri", "pattern", "4M"]);
    let socket = far.socket.to_str().unwrap();
    let mut fixed = Command::new("sh");
    // The socket on descriptor 7 is connected by Python, started from the shell.
    let connect = format!(
        "import os, socket, sys\n\
         s = socket.socket(socket.AF_UNIX); s.connect('{socket}'); os.dup2(s.fileno(), 7)\n\
         os.execv(sys.argv[1], sys.argv[1:])"
    );
    fixed.arg("-c").arg("exec /usr/bin/python3 -c \"$0\" \"$@\"").arg(connect).arg(BINARY);
    for (command, words) in [
        (Command::new(BINARY), vec![format!("socket={socket}")]),
        (Command::new(BINARY), vec![far.uri()]),
        (Command::new(BINARY), vec![format!("uri={}", far.uri()), "shared=true".into()]),
        (fixed, vec!["socket-fd=7".into()]),
        (
            Command::new(BINARY),
            ["command=qemu-nbd", "arg=-f", "arg=raw", "arg=-r"].map(str::to_owned).to_vec(),
        ),
        (
            Command::new(BINARY),
            [format!("command={BINARY}"), "arg=pattern".into(), "arg=4M".into()].to_vec(),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut words = words;
        if words[0] == "command=qemu-nbd" {
            fs::write(&image, prints_bytes("nbdcopy", &[&far.uri(), "-"])).unwrap();
            words.push(format!("arg={}", image.display()));
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut proxy = Agent::start_with(command, "-U {}/s nbd", &words);
        let through = prints_bytes("nbdcopy", &[&uri(&proxy), "-"]);
        assert!(through == prints_bytes("nbdcopy", &[&far.uri(), "-"]), "{words:?}");
        assert_eq!(through.len(), 4 << 20);
        let children = format!("/proc/{0}/task/{0}/children", proxy.id());
        let started = fs::read_to_string(children).unwrap();
        proxy.end();
        for id in started.split_whitespace() {
            assert!(!Path::new("/proc").join(id).exists(), "{words:?} left {id}");
        }
    }
}

fn prints_bytes(program: &str, words: &[&str]) -> Vec<u8> {
    let output = process::run(program, "libnbd-bin", words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    output.stdout
}

#[test]
fn dynamic_exports_are_listed_and_had_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for (name, len) in [("one", 512), ("two", 1024)] {
        fs::write(dir.path().join(name), vec![0; len]).unwrap();
    }
    let place = format!("dir={}", dir.path().display());
    let far = Far::start(BINARY, &["file", &place]);
    let socket = format!("socket={}", far.socket.display());
    let proxied = proxy(&[&socket, "dynamic-export=true"]);
    let look = "import nbd, sys\nh = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(sys.argv[1])\n\
        names = []; h.opt_list(lambda name, _: names.append(name)); names.sort()\n\
        assert names == ['one', 'two'], names\n\
        h.set_export_name('two'); h.opt_info(); assert h.get_size() == 1024\n\
        h.set_export_name('no')\n\
        try:\n    h.opt_info(); sys.exit('it is there')\nexcept nbd.Error: pass\n\
        h.set_export_name('one'); h.opt_go(); assert h.get_size() == 512";
    python(look, &[&uri(&proxied)]);
    let fixed = proxy(&[&socket, "export=two"]);
    assert_eq!(prints("nbdinfo", &["--size", &uri(&fixed)]).trim(), "1024");
}

#[test]
fn a_flush_never_lies_about_a_server_that_has_died() {
    let dir = tempfile::tempdir().unwrap();
    let mut far = Far::start_at(BINARY, &["memory", "1M"], dir);
    let proxied = proxy(&[&format!("socket={}", far.socket.display())]);
    // The client writes and is answered; then the server dies and restarts, empty.
    let script = "import nbd, sys\nh = nbd.NBD(); h.connect_uri(sys.argv[1])\n\
        h.pwrite(b'precious', 0)\nprint('written', flush=True); sys.stdin.readline()\n\
        for ask in (h.flush, h.flush, lambda: h.pwrite(b'x', 0), lambda: h.pread(1, 0)):\n\
        \x20   try:\n        ask(); sys.exit('it was answered as if nothing had been')\n\
        \x20   except nbd.Error: pass\n\
        h = nbd.NBD(); h.connect_uri(sys.argv[1]); assert h.pread(8, 0) == bytes(8)\n\
        h.pwrite(b'anew', 0); h.flush()";
    let mut client = Command::new("/usr/bin/python3");
    let client = client.args(["-c", script, &uri(&proxied)]);
    let client = client.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut said = [0; 8];
    client.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"written\n");
    far.die_and_come_again(BINARY, &["memory", "1M"]);
    proxied.wait_for_line("the far server's connection broke");
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(client.wait().unwrap().success());
}

#[test]
fn it_tries_again_to_connect_as_often_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("far");
    let words = format!("socket={}", socket.display());
    let proxied = proxy(&[&words, "retry=20"]);
    let uri = uri(&proxied);
    let size = thread::spawn(move || prints("nbdinfo", &["--size", &uri]));
    let far = Far::start_at(BINARY, &["memory", "3M"], dir);
    assert_eq!(size.join().unwrap().trim(), "3145728");
    drop(far);
    let once = proxy(&[&words]);
    assert!(
        !process::run("nbdinfo", "libnbd-bin", &["--size", &self::uri(&once)]).status.success()
    );
    once.wait_for_line("export not opened");
    // A shared connection is made at the start, or the agent does not start.
    assert_refuses(BINARY, &format!("-U - nbd {words} shared=true"), "cannot connect to unix:/");
}

#[test]
fn a_server_that_is_none_or_breaks_the_protocol_gives_errors_and_no_more() {
    let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
    let refuse = |option: u8| {
        [&0x3_e889_0455_65a9_u64.to_be_bytes()[..], &[0, 0, 0, option, 0x80, 0, 0, 1, 0, 0, 0, 0]]
            .concat()
    };
    // No extended headers, no structured replies, no contexts; NBD_REP_INFO and ACK of GO.
    let told = [
        &0x3_e889_0455_65a9_u64.to_be_bytes()[..],
        &[0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0],
        &(1_u64 << 20).to_be_bytes(),
        &[0, 5],
        &0x3_e889_0455_65a9_u64.to_be_bytes(),
        &[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0],
    ]
    .concat();
    let entered = [greeting.clone(), refuse(11), refuse(8), told].concat();
    let reply = |errno: u32, cookie: u64| {
        [&0x6744_6698_u32.to_be_bytes()[..], &errno.to_be_bytes(), &cookie.to_be_bytes()].concat()
    };
    for bytes in [
        b"SSH-2.0-x\r\n\0\0\0\0\0\0\0\0\0".to_vec(),
        Vec::new(),
        greeting[..10].to_vec(),
        [&greeting[..], &[0xff; 64]].concat(),
        entered.clone(),
        [entered.clone(), vec![0xff; 64]].concat(),
        [entered.clone(), reply(0, 77), vec![0; 512]].concat(),
        [entered.clone(), reply(0, 1), vec![0; 100]].concat(),
        [entered, reply(5, 1)].concat(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("far");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The agent closes the connection to a server whose answer is invalid.
            stream.write_all(&bytes).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        });
        let mut proxied = proxy(&[&format!("socket={}", path.display())]);
        let script = "import nbd, sys\nh = nbd.NBD()\n\
            try:\n    h.connect_uri(sys.argv[1]); h.pread(512, 0)\nexcept nbd.Error: sys.exit(0)\n\
            sys.exit('it has read something')";
        python(script, &[&uri(&proxied)]);
        proxied.end();
        server.join().unwrap();
    }
}

#[test]
fn wrong_words_are_one_line() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for (words, part) in [
        ("nbd", "exactly one of uri, socket, hostname, vsock, socket-fd and command"),
        ("nbd socket=/a hostname=b", "exactly one of"),
        ("nbd http://x", "uri=http://x is not an NBD URI"),
        ("nbd nbds://x", "TLS needs ca-cert.pem"),
        ("nbd nbds://x tls=on", "tls=on and an nbds URI cannot be used together"),
        ("nbd nbds://x?tls-hostname=y tls-hostname=z", "tls-hostname and a URI that names one"),
        ("nbd socket=/a tls-certificates=/x", "cannot use /x/ca-cert.pem"),
        ("nbd socket=/a tls-verify=no tls=off", "tls-verify and tls=off"),
        ("nbd socket=/a tls-username=x", "TLS needs ca-cert.pem"),
        ("nbd socket=/a tls-psk=/x", "tls-psk: TLS with shared keys to the other server"),
        ("nbd socket=/a tls=sometimes", "tls=sometimes is not known; known are: off, on, require"),
        (
            "nbd hostname=127.0.0.1 port=no-such",
            "port=no-such is not a port or the name of a service",
        ),
        (
            "nbd command=/nonexistent/server",
            "cannot use /nonexistent/server: there is no such program",
        ),
        ("nbd command=/bin/false", "cannot use /bin/false: it ended (exit status: 1)"),
        ("nbd socket=/a tls=require", "TLS needs ca-cert.pem"),
        ("nbd socket=/a port=1", "port and socket cannot be used together"),
        ("nbd socket=/a arg=x", "arg and socket cannot be used together"),
        ("nbd socket=/a export=x dynamic-export=true", "export and dynamic-export=true"),
        ("nbd socket=/a shared=true dynamic-export=true", "cannot be used together"),
        ("nbd nbd+unix:///x?socket=/a export=y", "export and a URI that names one"),
        ("nbd socket-fd=77", "socket-fd=77 is not a connected socket"),
        ("nbd command=/nonexistent/server shared=false", "shared=false and command"),
        ("nbd vsock=x", "vsock=x is not a number"),
        (
            &format!("nbd hostname=127.0.0.1 port={port} shared=true"),
            "cannot connect to tcp:127.0.0.1:",
        ),
    ] {
        assert_refuses(BINARY, &format!("-U - {words}"), part);
    }
}
