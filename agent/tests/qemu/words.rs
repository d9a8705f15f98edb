//! The command lines of `agent qemu`: help, examples, and invalid words.

use super::{agent, json_of, refused, said};

#[test]
fn each_command_helps_with_examples() {
    for word in ["attach", "detach", "list", "args", "watch"] {
        let help = said(&agent(&[word, "--help"]));
        assert!(help.contains(&format!("Examples:\n  agent qemu {word} ")), "{help}");
        if word != "watch" {
            assert!(help.contains("With --json, one object"), "{help}");
        }
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}

#[test]
fn args_prints_words_for_a_shell_and_for_machines() {
    for (words, expected) in [
        (&["--cid", "42"][..], "-device vhost-vsock-pci,id=vsock0,guest-cid=42\n"),
        (
            &["--cid", "42", "--machine", "pc-i440fx-10.0", "--id", "disks"],
            "-device vhost-vsock-pci,id=disks,guest-cid=42\n",
        ),
        (
            &["--cid", "42", "--machine", "microvm"],
            "-device vhost-vsock-device,id=vsock0,guest-cid=42\n",
        ),
        (
            &["--cid", "42", "--machine", "s390-ccw-virtio"],
            "-device vhost-vsock-ccw,id=vsock0,guest-cid=42\n",
        ),
        (
            &["--cid", "42", "--machine", "virt", "--bus", "mmio"],
            "-device vhost-vsock-device,id=vsock0,guest-cid=42\n",
        ),
        (
            &["--vhost-user", "/run/a b,c", "--memory", "512M", "--numa"],
            "-m 512M -object memory-backend-memfd,id=vsock0-memory,size=512M,share=on \
             -numa node,memdev=vsock0-memory \
             -chardev 'socket,id=vsock0-socket,path=/run/a b,,c' \
             -device vhost-user-vsock-pci,id=vsock0,chardev=vsock0-socket\n",
        ),
    ] {
        assert_eq!(said(&agent(&[&["args"], words].concat())), expected, "{words:?}");
    }
    let object = json_of(&said(&agent(&["args", "--cid", "100-199", "--json"])));
    let cid = object["cid"].as_u64().unwrap();
    assert!((100..=199).contains(&cid), "{object}");
    assert_eq!(object["arguments"][1], format!("vhost-vsock-pci,id=vsock0,guest-cid={cid}"));
    let words = ["args", "--vhost-user", "/run/v", "--memory", "1G", "--json"];
    assert_eq!(json_of(&said(&agent(&words)))["cid"], serde_json::Value::Null);
}

#[test]
fn wrong_words_are_one_line_that_names_them() {
    for (words, part) in [
        (&["attach"][..], "--qmp <SOCKET>"),
        (
            &["attach", "--qmp", "x", "--cid", "2"],
            "'--cid <auto|CID|CID-CID>': CID 2 is the host's",
        ),
        (&["attach", "--qmp", "x", "--cid", "9-8"], "the range 9-8 is empty"),
        (&["detach", "--qmp", "x", "--timeout", "soon"], "--timeout"),
        (&["args", "--vhost-user", "x"], "--memory <SIZE>"),
        (&["args", "--vhost-user", "x", "--memory", "512"], "give a number with K, M, G or T"),
        (&["args", "--vhost-user", "x", "--memory", "1G", "--cid", "5"], "cannot be used with"),
        (&["list", "--qmp"], "--qmp"),
        (&["plug"], "plug"),
        (&[], "attach, detach, list, args, watch"),
    ] {
        let line = refused(&agent(words));
        assert!(line.contains(part), "{words:?}: {line}");
    }
}
