use std::error::Error;

use super::*;

fn refused(text: &str) -> String {
    let error = parse(text).unwrap_err();
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn a_text_that_is_refused_is_refused_with_its_place() {
    for (text, expected) in [
        ("", "line 1, column 1: the XML ends before its element does"),
        ("<a>\n <b>\n", "line 3, column 1: the XML ends before its element does"),
        ("<a>\n<b>\n</a>", "it is not well-formed XML: expected 'b' tag, not 'a' at 3:1"),
        ("<a>\n&x;</a>", "it is not well-formed XML: unknown entity reference 'x' at 2:1"),
        (
            "<?xml version='1.0'?>\n<!-- <!DOCTYPE -->\n <!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
            "line 3, column 2: a document type, which is not read here, nor are entities; take it out",
        ),
        (
            "<?xml version='1.0' encoding = \"UTF-16\"?><a/>",
            "line 1: it declares the encoding UTF-16; write it in UTF-8",
        ),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
    for encoding in ["utf-8", "UTF8", "US-ASCII", "ascii"] {
        let text = format!("<?xml version='1.0' encoding='{encoding}'?><a/>");
        assert!(parse(&text).is_ok(), "{text}");
    }
    let unbound =
        "line 1, column 4: the prefix \"b\" is bound to no namespace; take its declaration out";
    assert_eq!(refused("<a><b:a xmlns:b=''/></a>"), unbound);
    assert!(parse("<?xml version='1.0'?><!-- encoding='UTF-16' --><a/>").is_ok());
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_with_their_place() {
    let error = text(b"<a>\n\xc3\xa9\xe9</a>".to_vec()).unwrap_err();
    assert!(error.to_string().starts_with("line 2, column 2: not UTF-8"), "{error}");
    assert_eq!(text(b"<a/>".to_vec()).unwrap(), "<a/>");
}

/// Text that only looks like an attribute or a declaration is not counted.
#[test]
fn text_comments_cdata_and_instructions_are_not_counted() {
    for inside in [" a=\"x\"".repeat(300), " xmlns=\"u\"".repeat(300)] {
        for (open, close) in [
            ("", ""),
            ("<!-- <b", "> -->"),
            ("<![CDATA[ <b", "> ]]>"),
            ("<?b", "?>"),
            ("<b c='>", "'/>"),
            ("<b c='>' ></b >", ""),
        ] {
            let text = format!("<a>{open}{inside}{close}</a>");
            parse(&text).unwrap_or_else(|error| panic!("{open} {close}: {error}"));
        }
    }
    // A namespace that is declared again counts once.
    let text = format!("<a>{}</a>", "<b xmlns='u'/>".repeat(10_000));
    assert!(parse(&text).is_ok());
}

/// Without the limits the parser took minutes for each of them.
#[test]
fn hostile_texts_are_refused_before_they_cost_time() {
    let numbered =
        |count: usize, part: &dyn Fn(usize) -> String| (0..count).map(part).collect::<String>();
    for (text, part) in [
        (" ".repeat(LONGEST + 1), "at most"),
        ("<a>".repeat(190_000), "ends before"),
        (format!("<a>{}</a>", "<a/>".repeat(300_000)), "more than 200000 elements"),
        (
            format!("<a>\n<b {}/></a>", numbered(300_000, &|n| format!(" a{n}=''"))),
            "line 2, column 1: more than 256 attributes",
        ),
        (
            format!("<a {}/>", numbered(300_000, &|n| format!(" a{n}\n=\t\"\""))),
            "line 1, column 1: more than 256 attributes",
        ),
        (
            format!("<a>{}", numbered(60_000, &|n| format!("<a xmlns:b{n}='u{n}'>"))),
            "more than 256 namespaces",
        ),
        // Each further declaration compares each prefix in scope with each.
        (
            format!(
                "<a {}>{}",
                numbered(256, &|n| format!(" xmlns:b{n}='u{n}'")),
                "<c xmlns='u'/>".repeat(190_000)
            ),
            "more than 256 namespaces, or",
        ),
        // Namespace names are compared as a whole.
        (
            format!("<a xmlns:b='{}'>", "u".repeat(1 << 20)),
            "line 1, column 1: a namespace's name is longer",
        ),
        // The end mark of a comment, a section or a value, where it does not end anything.
        (
            format!("<a><!-- --><b {}/></a>", numbered(300, &|n| format!(" a{n}='>'"))),
            "line 1, column 12: more than 256 attributes",
        ),
        (
            format!("<a><!--><b {}/>--><c {0}/></a>", numbered(300, &|n| format!(" a{n}=''"))),
            "more than 256 attributes",
        ),
        (
            format!("<a><![CDATA[<b ]]><c {}/></a>", numbered(300, &|n| format!(" a{n}=''"))),
            "line 1, column 19: more than 256 attributes",
        ),
        // As many as each limit allows.
        (
            format!(
                "<a {}>{}",
                numbered(15, &|n| format!(" xmlns:b{n}='{}'", "u".repeat(255 - n))),
                format!("<b {}/>", numbered(256, &|n| format!(" b1:a{n}=''"))).repeat(200)
            ),
            "ends before",
        ),
        (
            format!(
                "<a {}>{}",
                numbered(15, &|n| format!(" xmlns:b{n}='u{n}'")),
                "<c xmlns:b1='u'/>".repeat(70_000)
            ),
            "ends before",
        ),
        (
            format!(
                "<a>{}",
                format!("<b {}/>", numbered(256, &|n| format!(" a{n}=''"))).repeat(1500)
            ),
            "ends before",
        ),
        (
            format!(
                "<a {}>{}",
                numbered(256, &|n| format!(" xmlns:b{n}='u{n}'")),
                "<b255:a/>".repeat(190_000)
            ),
            "ends before",
        ),
    ] {
        let said = refused(&text);
        assert!(said.contains(part), "{}: {said}", &text[..60]);
    }
}
