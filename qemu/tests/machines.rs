//! The crate against a real QEMU, whose machines have no guest: listing, adding and removing vsock devices.

use std::{error::Error as _, fs::File, path::Path, time::Duration};

use qapi::qmp::{cont, device_add, quit, stop, system_powerdown, system_reset};
use qemu::{
    args::{self, Sharing},
    cid::{Claim, ClaimError, Range, VHOST_VSOCK},
    life::{Happening, Life},
    qmp::{Client, Limits},
    vsock::{self, Backend, Bus, PlaceError, PlugError, Plugged, UnplugError},
};
use support::qemu::{Machine, VhostUser};
use vsock_cid::GuestCid;

const PORT: &str = "pcie-root-port,id=port-a,chassis=1";
const SECOND_PORT: &str = "pcie-root-port,id=port-b,chassis=2";

async fn start(machine: &str, devices: &[&str]) -> (Machine, Client) {
    start_with(machine, devices, &[]).await
}

/// A machine and the client of its QMP socket.
async fn start_with(machine: &str, devices: &[&str], arguments: &[String]) -> (Machine, Client) {
    let machine = Machine::start_with(machine, devices, arguments);
    let client = Client::connect(machine.qmp(), Limits::default()).await.expect("QMP");
    (machine, client)
}

#[tokio::test]
async fn the_kind_of_each_machine_is_found_out() {
    for (machine, name, bus) in [
        ("q35", "pc-q35-", Bus::Pcie),
        ("pc", "pc-i440fx-", Bus::Pci),
        ("microvm", "microvm", Bus::Mmio),
        ("microvm,pcie=on", "microvm", Bus::Pcie),
        ("none", "none", Bus::Mmio),
    ] {
        let (_machine, mut client) = start(machine, &[]).await;
        let found = vsock::Machine::ask(&mut client).await.unwrap();
        assert!(found.name.as_str().starts_with(name), "{found:?}");
        assert_eq!(found.bus, bus, "{machine}");
        assert_eq!(vsock::list(&mut client).await.unwrap(), []);
    }
}

#[tokio::test]
async fn q35_wants_a_free_port_with_an_id() {
    for (devices, found) in [
        (&[][..], Err("it has none at all")),
        (&["pcie-root-port,chassis=1"], Err("1 without an id")),
        (&[PORT, "virtio-rng-pci,bus=port-a"], Err("port-a (occupied)")),
        (&["pcie-root-port,id=port-a,hotplug=off"], Err("port-a (hotplug=off)")),
        (&[PORT], Ok("port-a")),
        (&[PORT, SECOND_PORT, "virtio-rng-pci,bus=port-a"], Ok("port-b")),
    ] {
        let (_machine, mut client) = start("q35", devices).await;
        match (vsock::place(&mut client).await, found) {
            (Ok(place), Ok(port)) => assert_eq!(place.port.as_deref(), Some(port)),
            (Err(error @ PlaceError::NoPort { .. }), Err(said)) => {
                assert!(error.to_string().ends_with(said), "{error}");
                assert!(error.hint().unwrap().contains("-device pcie-root-port"));
            }
            other => panic!("{devices:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn other_machines_have_a_place_at_once_or_never() {
    let (_machine, mut client) = start("pc", &[]).await;
    assert_eq!(vsock::place(&mut client).await.unwrap().port, None);
    let (_machine, mut client) = start("microvm", &[]).await;
    let error = vsock::place(&mut client).await.unwrap_err();
    assert_eq!(error.to_string(), "microvm takes no virtio device while it runs");
    assert!(error.hint().unwrap().contains("agent qemu args --machine microvm"));
}

/// Without /dev/vhost-vsock the claim fails with a hint; with it the device is added.
#[tokio::test]
async fn a_new_device_is_claimed_from_the_kernel() {
    for (machine, devices) in [("pc", &[][..]), ("q35", &[PORT])] {
        let (_machine, mut client) = start(machine, devices).await;
        let plugged = vsock::plug(&mut client, Range::default(), "vsock0").await;
        if Path::new(VHOST_VSOCK).exists() {
            let Plugged { device, claim, .. } = plugged.unwrap();
            assert_eq!(device.cid, Some(claim.cid));
            assert_eq!(vsock::list(&mut client).await.unwrap(), [device]);
            let again = vsock::plug(&mut client, Range::default(), "vsock1").await.unwrap_err();
            assert!(matches!(again, PlugError::Present(_)), "{again}");
        } else {
            let error = plugged.unwrap_err();
            assert!(matches!(error, PlugError::Claim(ClaimError::Open(..))), "{error}");
            assert_eq!(error.to_string(), "cannot open /dev/vhost-vsock");
            assert!(error.hint().unwrap().contains("modprobe vhost_vsock"));
            assert_eq!(vsock::list(&mut client).await.unwrap(), []);
        }
    }
}

/// QEMU's device gets the descriptor and refuses it, since it is none of /dev/vhost-vsock.
#[tokio::test]
async fn a_descriptor_reaches_the_device_and_does_not_stay_when_it_fails() {
    let (_machine, mut client) = start("q35", &[PORT]).await;
    let place = vsock::place(&mut client).await.unwrap();
    let claim = Claim { cid: GuestCid::new(7).unwrap(), device: File::open("/dev/null").unwrap() };
    for _ in 0..2 {
        let error = vsock::plug_claimed(&mut client, &place, &claim, "vsock0").await.unwrap_err();
        let PlugError::Qmp(error) = error else { panic!("{error}") };
        let said = error.refusal().unwrap().to_string();
        assert!(!said.contains("No such file"), "QEMU opened a device itself: {said}");
        assert!(error.source().unwrap().to_string().contains("QEMU refuses"), "{said}");
    }
    assert_eq!(vsock::list(&mut client).await.unwrap(), []);
}

#[tokio::test]
async fn a_vhost_user_device_is_listed_and_prevents_a_second_device() {
    let backend = VhostUser::serve();
    let arguments = backend.arguments();
    let devices = [PORT, "vhost-user-vsock-pci,id=other,bus=port-a,chardev=vsock", SECOND_PORT];
    let (_machine, mut client) = start_with("q35", &devices, &arguments).await;
    let listed = vsock::list(&mut client).await.unwrap();
    let [device] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(device.id, Some("other".into()));
    assert_eq!(device.driver, "vhost-user-vsock-pci");
    assert_eq!((device.backend, device.cid), (Backend::VhostUser, None));
    let error = vsock::plug(&mut client, Range::default(), "vsock0").await.unwrap_err();
    assert!(matches!(&error, PlugError::Present(present) if present == device), "{error}");
    assert!(error.to_string().contains("'other', whose CID"), "{error}");
}

#[tokio::test]
async fn a_guest_that_does_not_answer_keeps_its_device() {
    let backend = VhostUser::serve();
    let arguments = backend.arguments();
    // A device without an id on the bus of i440fx, which asks the guest by ACPI.
    let devices = ["vhost-user-vsock-pci-non-transitional,chardev=vsock"];
    let (_machine, mut client) = start_with("pc", &devices, &arguments).await;
    let listed = vsock::list(&mut client).await.unwrap();
    let [device] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(device.id, None);
    let deadline = Duration::from_millis(200);
    let error = vsock::unplug(&mut client, device, deadline).await.unwrap_err();
    assert!(matches!(error, UnplugError::Deadline { .. }), "{error}");
    assert!(error.to_string().ends_with("the machine is 'prelaunch'"), "{error}");
    // The guest was asked before; the second call waits for the same request.
    let error = vsock::unplug(&mut client, device, deadline).await.unwrap_err();
    assert!(matches!(error, UnplugError::Deadline { .. }), "{error}");
    assert_eq!(vsock::list(&mut client).await.unwrap(), listed);
}

/// No guest has powered the port, so QEMU removes the device without asking; by ACPI it would ask the guest.
#[tokio::test]
async fn unplug_waits_until_the_device_is_gone() {
    let backend = VhostUser::serve();
    let mut arguments = backend.arguments();
    let native = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"];
    arguments.extend(native.map(str::to_owned));
    let (_machine, mut client) = start_with("q35", &[PORT], &arguments).await;
    add_vhost_user(&mut client).await;
    let listed = vsock::list(&mut client).await.unwrap();
    vsock::unplug(&mut client, &listed[0], Duration::from_secs(20)).await.unwrap();
    assert_eq!(vsock::list(&mut client).await.unwrap(), []);
    assert!(vsock::place(&mut client).await.is_ok(), "the port is free again");
}

async fn add_vhost_user(client: &mut Client) {
    let chardev = [("chardev".to_owned(), "vsock".into())].into_iter().collect();
    let add = device_add {
        driver: "vhost-user-vsock-pci".into(),
        id: Some("late".into()),
        bus: Some("port-a".into()),
        arguments: chardev,
    };
    client.execute(&add).await.unwrap();
}

#[tokio::test]
async fn the_life_of_a_machine_is_followed_to_its_end() {
    let (mut machine, mut client) = start("q35", &[PORT]).await;
    client.execute(&cont {}).await.unwrap();
    client.execute(&stop {}).await.unwrap();
    client.execute(&system_reset {}).await.unwrap();
    client.execute(&system_powerdown {}).await.unwrap();
    client.execute(&quit {}).await.unwrap();
    let mut life = Life::new(client);
    let mut told = Vec::new();
    let end = loop {
        match life.next().await {
            Ok(Happening::Shutdown(cause)) => told.push(format!("shutdown {}", cause.reason)),
            Ok(Happening::Reset(cause)) => told.push(format!("reset {}", cause.reason)),
            Ok(Happening::Powerdown) => told.push("powerdown".into()),
            Ok(Happening::Stopped) => told.push("stop".into()),
            Ok(Happening::Resumed) => told.push("resume".into()),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let all =
        ["resume", "stop", "reset host-qmp-system-reset", "powerdown", "shutdown host-qmp-quit"];
    assert_eq!(told, all);
    assert!(end.is_end(), "{end}");
    machine.assert_ends();
}

#[tokio::test]
async fn qemu_takes_the_arguments_that_are_printed() {
    let backend = VhostUser::serve();
    for (machine, bus) in [("q35", Bus::Pcie), ("pc", Bus::Pci), ("microvm", Bus::Mmio)] {
        for sharing in [Sharing::Machine, Sharing::Numa] {
            let id = "v".to_owned();
            let memory = "128M".parse().unwrap();
            let socket = backend.path().into();
            let device = args::VhostUser { bus, id, socket, memory, sharing };
            // A microvm has no NUMA.
            if (machine, sharing) == ("microvm", Sharing::Numa) {
                continue;
            }
            let (_machine, mut client) = start_with(machine, &[], &device.arguments()).await;
            let listed = vsock::list(&mut client).await.unwrap();
            assert_eq!(listed[0].driver, bus.vhost_user_vsock(), "{machine}");
        }
    }
}
