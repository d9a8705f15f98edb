use std::fs;

use super::*;
use crate::{
    exports::{Single, list_now, open_now},
    lifecycle::Lifecycle,
    params::Params,
    peer::Peer,
    stack::Context,
};
use disk::{MemoryDisk, testing};

/// The lines, without their times, of a client that does a few things.
fn log(more: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut words = vec![("logfile", path.to_str().unwrap())];
    words.extend(more);
    let words: Vec<_> =
        words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
    let params = Params::of_filter("log", ENTRY.keys, &mut words.iter().collect()).unwrap();
    let mut lifecycle = Lifecycle::default();
    let stack = Stack::new(Single(Arc::new(MemoryDisk::new(1 << 20))));
    let context = &mut Context {
        read_only: false,
        changes_user: false,
        lifecycle: &mut lifecycle,
        memory: Context::unlimited(),
    };
    let stack = (ENTRY.build)(&params, stack, context).unwrap();
    drop(stack.gates[0].admit(&Caller::new(&Peer::Pipe, &|| None)).unwrap());
    list_now(&*stack.exports).unwrap();
    let disk = open_now(&*stack.exports, "a b").unwrap();
    testing::write(&*disk, 4096, &[1; 4096]);
    testing::zero(&*disk, 0, 512, true);
    testing::run(&*disk, &mut disk::Op::Extents { at: 0, len: 65536, one: false }).unwrap();
    testing::run(&*disk, &mut disk::Op::Flush).unwrap();
    drop(disk);
    lifecycle.exit();
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn lines_have_the_format_of_nbdkit() {
    let lines = log(&[]);
    let lines: Vec<_> = lines.iter().map(|line| &line[27..]).collect();
    assert_eq!(
        lines,
        [
            "Ready thread_model=3",
            "Fork",
            "Preconnect id=1 readonly=0 ...",
            "...Preconnect id=1 return=0",
            "ListExports id=1 readonly=0 ...",
            "...ListExports id=1 exports=(\"\") return=0",
            "connection=1 Connect export=\"a b\" tls=0 size=0x100000 minsize=0x1 prefsize=0x1000 \
             maxsize=0xffffffff write=1 flush=1 rotational=0 trim=1 zero=2 fua=2 extents=1 cache=2 \
             fast_zero=1",
            "connection=1 Write id=1 offset=0x1000 count=0x1000 fua=0 ...",
            "connection=1 ...Write id=1 return=0",
            "connection=1 Zero id=2 offset=0x0 count=0x200 trim=1 fua=0 fast=0 ...",
            "connection=1 ...Zero id=2 return=0",
            "connection=1 Extents id=3 offset=0x0 count=0x10000 req_one=0 ...",
            "connection=1 ...Extents id=3 extents=(0x0 0x8000 \"\" 0x8000 0x8000 \"hole,zero\") \
             return=0",
            "connection=1 Flush id=4 ...",
            "connection=1 ...Flush id=4 return=0",
            "connection=1 Disconnect transactions=4",
        ]
    );
}

#[test]
fn lines_can_be_json_objects() {
    let lines = log(&[("logformat", "json")]);
    let end = |n: usize| lines[n].split_once("Z\",").unwrap().1;
    assert!(lines.iter().all(|line| line.starts_with("{\"time\":\"20")), "{lines:#?}");
    assert_eq!(
        end(7),
        "\"connection\":1,\"type\":\"ENTER\",\"act\":\"Write\",\"id\":1,\"offset\":4096,\
         \"count\":4096,\"fua\":0}"
    );
    assert!(end(5).ends_with("\"exports\":[\"\"],\"return\":0}"));
}

#[test]
fn a_script_has_the_line_in_its_variables() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("echo $type $act $id $offset $return $export >> {}", out.display());
    log(&[("logscript", &script)]);
    let text = fs::read_to_string(&out).unwrap();
    assert!(text.contains("ENTER Write 1 0x1000\nLEAVE Write 1 0\n"), "{text}");
    assert!(text.contains("PRINT Connect a b\n"), "{text}");
}
