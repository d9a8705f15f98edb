//! Whole domains before and after an edit: `golden/NAME.xml` and `golden/NAME.CASE.xml`. [`libvirt::edit`] must
//! return the latter byte for byte, and libvirt's schema must accept it.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use libvirt::{CidChoice, Existing, Model, Vsock, edit};

use vsock_cid::GuestCid;

use Existing::{Change, Keep};

/// The arguments of `edit` in the case of that name.
fn case(name: &str) -> (Vsock, Existing) {
    let vsock = |cid: Option<u32>, model| {
        let fixed = |cid| CidChoice::Fixed(GuestCid::new(cid).expect("a guest's"));
        (Some(cid.map_or(CidChoice::Auto, fixed)), model)
    };
    let ((cid, model), existing) = match name {
        "7" => (vsock(Some(7), None), Keep),
        "auto" => (vsock(None, None), Keep),
        "highest" => (vsock(Some(u32::MAX - 1), None), Keep),
        "transitional" => (vsock(Some(7), Some(Model::Transitional)), Keep),
        "replaced-9" => (vsock(Some(9), None), Change),
        "replaced-auto" => (vsock(None, None), Change),
        "replaced-virtio" => ((None, Some(Model::Virtio)), Change),
        "replaced-both" => (vsock(Some(9), Some(Model::NonTransitional)), Change),
        _ => panic!("golden/*.{name}.xml: no such case"),
    };
    (Vsock { cid, model }, existing)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The names of the files, without `.xml`.
fn names() -> BTreeSet<String> {
    let files = fs::read_dir(folder()).expect("golden files");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"));
    names.map(|name| name.strip_suffix(".xml").expect("XML").to_owned()).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.xml"))).expect("a golden file")
}

/// The domain and the case of each expected file.
fn pairs() -> Vec<(String, String)> {
    let names = names();
    let pairs = names.iter().filter_map(|name| name.split_once('.'));
    let pairs: Vec<_> = pairs.map(|(name, case)| (name.to_owned(), case.to_owned())).collect();
    for name in names.iter().filter(|name| !name.contains('.')) {
        assert!(pairs.iter().any(|(before, _)| before == name), "golden/{name}.xml has no case");
    }
    assert!(pairs.len() > names.len() / 2, "{names:?}");
    pairs
}

#[test]
fn every_edited_domain_is_as_expected() {
    for (name, case_name) in pairs() {
        let (before, expected) = (read(&name), read(&format!("{name}.{case_name}")));
        let (vsock, existing) = case(&case_name);
        let edited = edit(&before, vsock, existing);
        let edited = edited.unwrap_or_else(|error| panic!("{name}, {case_name}: {error}"));
        assert_eq!(edited, expected, "{name}, {case_name}");
        let again = edit(&edited, vsock, Keep).expect("the same again");
        assert_eq!(again, edited, "{name}, {case_name}: once is enough");
    }
}

#[test]
fn libvirts_schema_accepts_every_domain() {
    for name in names() {
        let path = folder().join(format!("{name}.xml"));
        let output = Command::new("virt-xml-validate").arg(&path).arg("domain").output();
        let output = output.unwrap_or_else(|error| {
            panic!("virt-xml-validate is needed (Debian: libvirt-clients libxml2-utils): {error}")
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}
