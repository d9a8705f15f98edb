use std::error::Error;

use proptest::prelude::*;

use super::*;

fn fixed(cid: u32) -> Vsock {
    Vsock { cid: Cid::fixed(cid).unwrap() }
}

const AUTO: Vsock = Vsock { cid: Cid::Auto };

fn added(domain: &str, vsock: Vsock) -> String {
    edit(domain, vsock, Existing::Keep).unwrap_or_else(|error| panic!("{domain}: {error}"))
}

#[test]
fn the_device_goes_behind_the_others_and_all_else_stays() {
    for (domain, expected) in [
        (
            "<domain type='kvm'>\n  <devices>\n    <disk/>\n  </devices>\n</domain>\n",
            "<domain type='kvm'>\n  <devices>\n    <disk/>\n    <vsock model='virtio'>\n      \
             <cid auto='no' address='7'/>\n    </vsock>\n  </devices>\n</domain>\n",
        ),
        (
            "<domain>\r\n\t<devices>\r\n\t\t<disk/><!-- <devices> -->\r\n\t</devices>\r\n</domain>",
            "<domain>\r\n\t<devices>\r\n\t\t<disk/>\r\n\t\t<vsock model='virtio'>\r\n\t\t  \
             <cid auto='no' address='7'/>\r\n\t\t</vsock><!-- <devices> -->\r\n\t</devices>\r\n</domain>",
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
        assert_eq!(cid(&edited).unwrap(), Some(Cid::fixed(7).unwrap()));
    }
}

#[test]
fn another_device_is_changed_only_when_that_is_asked() {
    let domain = "<domain>\n<devices>\n<vsock model='virtio-transitional'>\n<cid auto='no' address='3'/>\n\
                  <alias name='ua-x'/>\n</vsock>\n</devices>\n</domain>";
    let error = edit(domain, fixed(9), Existing::Keep).unwrap_err().to_string();
    assert!(error.contains("virtio-transitional, CID 3; --replace changes it"), "{error}");
    let changed = edit(domain, fixed(9), Existing::Change).unwrap();
    let expected =
        domain.replace("virtio-transitional", "virtio").replace("address='3'", "address='9'");
    assert_eq!(changed, expected);
    let changed = edit(domain, AUTO, Existing::Change).unwrap();
    assert!(changed.contains("<cid auto='yes'/>\n<alias"), "{changed}");
    // What libvirt has added to `auto` is not another device.
    let live = "<domain><devices><vsock model='virtio'><cid auto='yes' address='5'/><alias name='vsock0'/>\
                </vsock></devices></domain>";
    assert_eq!(added(live, AUTO), live);
    assert_eq!(cid(live).unwrap(), Some(Cid::fixed(5).unwrap()));
    assert!(edit(live, fixed(5), Existing::Keep).is_err(), "it may be another at the next start");
    let bare = "<domain><devices><vsock/></devices></domain>";
    let given = edit(bare, fixed(5), Existing::Change).unwrap();
    assert_eq!(cid(&given).unwrap(), Some(Cid::fixed(5).unwrap()), "{given}");
    assert_eq!(cid("<domain/>").unwrap(), None);
}

#[test]
fn what_is_no_domain_is_refused_with_its_place() {
    let deep = format!("<domain>{}", "<a>".repeat(100_000));
    let wide = format!("<domain>{}</domain>", "<a/>".repeat(300_000));
    for (text, part) in [
        ("", "not XML"),
        ("<domain><devices></domain>", "1:"),
        ("<network/>", "<network>, and a domain's is <domain>"),
        ("<q:domain xmlns:q='u'/>", "<domain>"),
        ("<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>", "not XML"),
        ("<domain>&a;</domain>", "not XML"),
        ("<?xml version='1.0' encoding='UTF-16'?><domain/>", "encoding UTF-16"),
        ("<domain><devices/><devices/></domain>", "more than one <devices>"),
        ("<domain><devices><vsock/><vsock/></devices></domain>", "more than one <vsock>"),
        ("<domain><devices><vsock><cid address='2'/></vsock></devices></domain>", "CID '2'"),
        (deep.as_str(), "not XML"),
        (wide.as_str(), "not XML"),
        (&" ".repeat(LONGEST + 1), "at most"),
    ] {
        let error = edit(text, fixed(7), Existing::Keep).unwrap_err();
        let said =
            format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
        assert!(said.contains(part), "{}: {said}", text.chars().take(60).collect::<String>());
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_is_edited_stays_so(
        text in "(<domain>|<devices>|</devices>|<devices/>|</domain>|<vsock/>|<!-- -->|[ \n\ta<>/&'\u{e9}]){0,12}",
    ) {
        if let Ok(edited) = edit(&text, fixed(9), Existing::Change) {
            prop_assert_eq!(edit(&edited, fixed(9), Existing::Keep).unwrap(), edited);
        }
    }

    #[test]
    fn taken_out_again_nothing_has_changed(before in "(<a/>|\n|  |<b>x</b>|<!--c-->){0,6}", after in "[ \n]{0,3}") {
        let domain = format!("<domain>{before}<devices>{before}{after}</devices></domain>");
        let edited = added(&domain, AUTO);
        let begin = edited.find("<vsock").unwrap();
        let end = edited.find("</vsock>").unwrap() + "</vsock>".len();
        let without = format!("{}{}", edited[..begin].trim_end(), &edited[end..]);
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        prop_assert_eq!(squeeze(&without), squeeze(&domain));
    }
}
