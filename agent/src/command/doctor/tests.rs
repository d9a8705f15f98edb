//! The printed report, and which steps run after which answer.

use doctor::Step;

use super::*;

fn finding(verdict: Verdict, hint: Option<Hint>) -> Finding {
    Finding {
        id: "thing",
        verdict,
        checked: "the thing".into(),
        evidence: "it is so".into(),
        meaning: "so it goes".into(),
        hint,
    }
}

fn hint_of(steps: &[Step], safe: bool) -> Hint {
    Hint { steps: steps.to_vec(), safe, ..Hint::default() }
}

const TRUE: Step = Step::Run(&["true"]);
const FALSE: Step = Step::Run(&["false"]);

#[test]
fn only_safe_fixes_are_run_and_only_after_a_yes() {
    let safe = [finding(Verdict::Fault, Some(hint_of(&[TRUE, TRUE], true)))];
    for (answers, runs) in [("", 0), ("n\n", 0), ("maybe\n", 0), ("y\n", 1), ("y\nYES\n", 2)] {
        assert_eq!(run_fixes(&safe, false, &mut answers.as_bytes()).len(), runs, "{answers:?}");
    }
    assert_eq!(run_fixes(&safe, true, &mut &b""[..]).len(), 2);
    for not in [
        finding(Verdict::Fault, Some(hint_of(&[TRUE], false))),
        finding(Verdict::Fault, Some(hint_of(&[], true))),
        finding(Verdict::Ok, Some(hint_of(&[TRUE], true))),
        finding(Verdict::Fault, None),
    ] {
        assert!(run_fixes(&[not], true, &mut &b""[..]).is_empty());
    }
    let twice = [safe[0].clone(), safe[0].clone()];
    assert_eq!(run_fixes(&twice, true, &mut &b""[..]).len(), 2, "one hint of two findings");
    let fails = [finding(Verdict::Fault, Some(hint_of(&[FALSE, TRUE], true)))];
    let done = run_fixes(&fails, true, &mut &b""[..]);
    assert!(matches!(done.as_slice(), [(_, Err(_))]), "{done:?}");
}

#[test]
fn words_and_json_say_the_same() {
    let way = Way { id: "vsock", option: "--vsock", works: false, why: "thing: so".into() };
    let findings = vec![
        finding(Verdict::Fault, Some(hint_of(&[TRUE], true))),
        finding(Verdict::Warning, None),
    ];
    let mut report = Report { findings, ways: vec![way] };
    let words = in_words(&report);
    assert!(
        words.contains("fault    thing: the thing: it is so\n         so it goes\n"),
        "{words}"
    );
    assert!(words.contains("         hint: \"true\"\n"), "{words}");
    let end = "way      --vsock: no: thing: so\n\
               no guest can be served by --vsock: 1 faults, 1 warnings\n";
    assert!(words.ends_with(end), "{words}");
    let object = in_json(&report, None);
    assert_eq!(object["served"], false);
    assert_eq!(object["findings"][0]["steps"][0], "true");
    assert_eq!(object["findings"][1]["hint"], Value::Null);
    assert!(object.get("fixed").is_none());
    assert_eq!(object["ways"][0]["works"], false);
    let lists = ["findings", "ways"].iter().flat_map(|key| object[key].as_array().unwrap());
    for listed in lists {
        for key in listed.as_object().unwrap().keys() {
            assert!(EXAMPLES.contains(&format!("\n    {key}  ")), "{key} is documented");
        }
    }
    report.findings.remove(0);
    let object = in_json(&report, Some(&[("true".into(), Ok(()))]));
    assert_eq!((&object["served"], &object["fixed"][0]["error"]), (&true.into(), &Value::Null));
}
