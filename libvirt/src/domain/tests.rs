use proptest::prelude::*;
use vsock_cid::GuestCid;

use super::*;

fn fixed(cid: u32) -> Vsock {
    Vsock { cid: Some(CidChoice::Fixed(GuestCid::new(cid).unwrap())), model: None }
}

const AUTO: Vsock = Vsock { cid: Some(CidChoice::Auto), model: None };

/// The CID of a domain's device.
fn cid(domain: &str) -> Option<u32> {
    device(domain).unwrap()?.cid.map(GuestCid::get)
}

fn added(domain: &str, vsock: Vsock) -> String {
    edit(domain, vsock, Existing::Keep).unwrap_or_else(|error| panic!("{domain}: {error}"))
}

#[test]
fn the_device_is_added_after_the_others_and_all_else_stays() {
    for (domain, expected) in [
        (
            "<domain type='kvm'>\n  <devices>\n    <disk/>\n  </devices>\n</domain>\n",
            "<domain type='kvm'>\n  <devices>\n    <disk/>\n    <vsock model='virtio'>\n      \
             <cid auto='no' address='7'/>\n    </vsock>\n  </devices>\n</domain>\n",
        ),
        (
            "<domain>\r\n\t<devices>\r\n\t\t<disk/><!-- <devices> -->\r\n\t</devices>\r\n</domain>",
            "<domain>\r\n\t<devices>\r\n\t\t<disk/><!-- <devices> -->\r\n\t\t<vsock model='virtio'>\r\n\t\t  \
             <cid auto='no' address='7'/>\r\n\t\t</vsock>\r\n\t</devices>\r\n</domain>",
        ),
        (
            "<domain>\n  <devices/>\n</domain>",
            "<domain>\n  <devices>\n    <vsock model='virtio'>\n      <cid auto='no' address='7'/>\n    \
             </vsock>\n  </devices>\n</domain>",
        ),
        (
            "<domain>\n  <devices a='/>' >\n  </devices >\n</domain>",
            "<domain>\n  <devices a='/>' >\n    <vsock model='virtio'>\n      \
             <cid auto='no' address='7'/>\n    </vsock>\n  </devices >\n</domain>",
        ),
        (
            "<domain><name>x</name></domain>",
            "<domain><name>x</name><devices><vsock model='virtio'><cid auto='no' address='7'/></vsock>\
             </devices></domain>",
        ),
        (
            "<domain><devices><disk/></devices></domain>",
            "<domain><devices><disk/><vsock model='virtio'><cid auto='no' address='7'/></vsock>\
             </devices></domain>",
        ),
        (
            "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n<domain xmlns:q='http://q'>\n  <q:devices/>\n  \
             <devices>\n    <a b='&lt;/devices&gt;'><![CDATA[</devices>]]></a>\n  </devices>\n</domain>",
            "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n<domain xmlns:q='http://q'>\n  <q:devices/>\n  \
             <devices>\n    <a b='&lt;/devices&gt;'><![CDATA[</devices>]]></a>\n    \
             <vsock model='virtio'>\n      <cid auto='no' address='7'/>\n    </vsock>\n  </devices>\n\
             </domain>",
        ),
    ] {
        let edited = added(domain, fixed(7));
        assert_eq!(edited, expected);
        assert_eq!(added(&edited, fixed(7)), edited, "once is enough");
        assert_eq!(cid(&edited), Some(7));
    }
}

/// `xmlns=''` means no namespace, as does its absence.
#[test]
fn an_empty_namespace_counts_as_no_namespace() {
    let plain = "<domain><devices><vsock><cid auto='no' address='7'/></vsock></devices></domain>";
    for element in ["domain", "devices", "vsock", "cid"] {
        for declaration in [" xmlns=''", " xmlns=\"\""] {
            let name = format!("<{element}");
            let domain = plain.replacen(&name, &format!("{name}{declaration}"), 1);
            assert_eq!(added(&domain, fixed(7)), domain);
            assert_eq!(cid(&domain), Some(7), "{domain}");
            let changed = edit(&domain, fixed(9), Existing::Change).unwrap();
            assert_eq!((cid(&changed), changed.matches("<vsock").count()), (Some(9), 1));
        }
    }
    // Within another namespace, `xmlns=''` puts an element back into no namespace.
    let inside = "<domain xmlns='u'><devices xmlns=''/></domain>";
    assert!(edit(inside, fixed(7), Existing::Keep).is_err());
    let foreign = "<domain><devices><vsock xmlns='u'/></devices></domain>";
    let expected = foreign.replace("</devices>", &format!("{}</devices>", fixed(7)));
    assert_eq!(added(foreign, fixed(7)), expected);
}

#[test]
fn another_device_is_changed_only_on_request() {
    let domain = "<domain>\n<devices>\n<vsock model='virtio-transitional'>\n<cid auto='no' address='3'/>\n\
                  <alias name='ua-x'/>\n</vsock>\n</devices>\n</domain>";
    let error = edit(domain, fixed(9), Existing::Keep).unwrap_err().to_string();
    assert!(
        error.contains(
            "line 3, column 1: it has a vsock device of its own, virtio-transitional, CID 3"
        ),
        "{error}"
    );
    let changed = edit(domain, fixed(9), Existing::Change).unwrap();
    let expected = domain.replace("address='3'", "address='9'");
    assert_eq!(changed, expected, "the model stays");
    let model = Some(Model::NonTransitional);
    let changed = edit(domain, Vsock { model, ..fixed(9) }, Existing::Change).unwrap();
    assert_eq!(changed, expected.replace("virtio-transitional", "virtio-non-transitional"));
    let changed = edit(domain, Vsock { model, cid: None }, Existing::Change).unwrap();
    assert_eq!(changed, domain.replace("virtio-transitional", "virtio-non-transitional"));
    assert!(edit(domain, Vsock { model, ..fixed(3) }, Existing::Keep).is_err());
    assert_eq!(added(domain, fixed(3)), domain, "without a model, any model will do");
    let changed = edit(domain, AUTO, Existing::Change).unwrap();
    assert!(changed.contains("<cid auto='yes'/>\n<alias"), "{changed}");
    // A device with what libvirt added to `auto` is the same device.
    let live = "<domain><devices><vsock model='virtio'><cid auto='yes' address='5'/><alias name='vsock0'/>\
                </vsock></devices></domain>";
    assert_eq!(added(live, AUTO), live);
    assert_eq!(cid(live), Some(5));
    let error = edit(live, fixed(5), Existing::Keep).expect_err("another at the next start");
    assert!(error.to_string().contains("virtio, any CID (now 5)"), "{error}");
    let bare = "<domain><devices><vsock/></devices></domain>";
    let given = edit(bare, fixed(5), Existing::Change).unwrap();
    assert_eq!(cid(&given), Some(5), "{given}");
    let model = Vsock { cid: None, model: Some(Model::Transitional) };
    let given = edit(bare, model, Existing::Change).unwrap();
    assert_eq!(
        given,
        "<domain><devices><vsock model='virtio-transitional'>\n  <cid auto='yes'/>\n</vsock></devices>\
         </domain>"
    );
    assert_eq!(device("<domain/>").unwrap(), None);
    assert!(runs("<domain id='3'/>").unwrap() && !runs("<domain><a id='3'/></domain>").unwrap());
    let refused = "<domain><devices><vsock><cid auto='no' address='2'/></vsock></devices></domain>";
    let given = edit(refused, fixed(5), Existing::Change).unwrap();
    assert_eq!(given, refused.replace("'2'", "'5'"));
    let error = edit(refused, model, Existing::Change).unwrap_err().to_string();
    assert!(error.ends_with("the CID \"2\", which is no guest's"), "{error}");
    let two = refused.replace("</vsock>", "<cid auto='yes'/></vsock>");
    let error = edit(&two, fixed(5), Existing::Change).unwrap_err().to_string();
    assert_eq!(error, "line 1, column 53: it has more than one <cid>");
}

#[test]
fn a_text_that_is_no_domain_is_refused_with_its_place() {
    for (text, expected) in [
        (
            "\n<network/>",
            "line 2, column 1: its element is <network>, and a domain's is <domain>, in no namespace",
        ),
        (
            "<q:domain xmlns:q='u'/>",
            "line 1, column 1: its element is <domain>, and a domain's is <domain>, in no namespace",
        ),
        (
            "<domain><devices/>\n <devices/></domain>",
            "line 2, column 2: it has more than one <devices>",
        ),
        (
            "<domain><devices>\n<vsock/><vsock/></devices></domain>",
            "line 2, column 9: it has more than one <vsock>",
        ),
        (
            "<domain><devices><vsock><cid address='2'/></vsock></devices></domain>",
            "line 1, column 25: its vsock device has the CID \"2\", which is no guest's",
        ),
    ] {
        let error = edit(text, fixed(7), Existing::Keep).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn a_line_of_a_hundred_thousand_devices_is_edited_at_once() {
    let domain = format!("<domain><devices>{}</devices></domain>", "<a/>".repeat(190_000));
    let edited = added(&domain, fixed(7));
    let device = "<vsock model='virtio'><cid auto='no' address='7'/></vsock>";
    assert_eq!(edited, domain.replace("</devices>", &format!("{device}</devices>")));
}

proptest! {
    #[test]
    fn no_text_causes_a_panic_and_a_second_edit_changes_nothing(
        text in "(<domain>|<devices>|</devices>|<devices/>|</domain>|<vsock/>|<!-- -->|[ \n\ta<>/&'\u{e9}]){0,12}",
    ) {
        if let Ok(edited) = edit(&text, fixed(9), Existing::Change) {
            prop_assert_eq!(edit(&edited, fixed(9), Existing::Keep).unwrap(), edited);
        }
    }

    #[test]
    fn an_edit_inserts_one_range_and_changes_no_other_byte(
        before in "(<a/>|\r?\n|  |\t|<b>x</b>|<!--c-->|<!\\[CDATA\\[ \\]\\]>){0,6}",
        after in "[ \r\n\t]{0,3}",
    ) {
        let domain = format!("<domain>{before}<devices>{before}{after}</devices>{after}</domain>");
        let edited = added(&domain, AUTO);
        // The new bytes are one range.
        let begin = edited.bytes().zip(domain.bytes()).take_while(|(a, b)| a == b).count();
        let end = begin + edited.len() - domain.len();
        prop_assert_eq!(format!("{}{}", &edited[..begin], &edited[end..]), domain.clone());
        prop_assert_eq!(edited[begin..end].matches("<cid auto='yes'/>").count(), 1);
        prop_assert!(device(&edited).unwrap().is_some_and(|device| device.auto));
        prop_assert_eq!(added(&edited, AUTO), edited);
    }
}
