//! One HTML page about several runs: a bar chart for each measure, and the numbers. It needs no
//! other file and no script, and follows the reader's light or dark theme.

use std::fmt::Write;

use human::exact_size;
use serde_json::Value;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1a1a;--pale:#666;--line:#ddd;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#eee;--pale:#aaa;--line:#444;--paper:#161616}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60em;\
margin:2em auto;padding:0 1em}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:.2em .6em;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child{text-align:left}text{fill:var(--ink);font-size:12px}\
.pale{fill:var(--pale);color:var(--pale)}";
/// Distinguishable with the common kinds of colour blindness.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

type Measure = (&'static str, fn(&Value) -> f64);

const MEASURES: [Measure; 3] = [
    ("Requests a second", |case| case["rate"].as_f64().unwrap_or(0.0)),
    ("MiB a second", |case| case["bytes_per_second"].as_f64().unwrap_or(0.0) / f64::from(1 << 20)),
    ("Latency, 99 of 100 requests, microseconds", |case| {
        case["latency"]["p99"].as_f64().unwrap_or(0.0) / 1000.0
    }),
];

/// Makes the page. The last run is the current one.
pub(super) fn page(runs: &[&Value]) -> String {
    let mut names: Vec<String> = Vec::new();
    for case in runs.iter().filter_map(|run| run["cases"].as_array()).flatten() {
        let name = name(case);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>guest-tools bench</title><style>{STYLE}</style>\
         <h1>guest-tools bench</h1><p>"
    );
    for (n, run) in runs.iter().enumerate() {
        let uri = escaped(run["uri"].as_str().unwrap_or("?"));
        let which = if n + 1 == runs.len() { "this run" } else { "earlier" };
        // Writing to a string cannot fail.
        write!(
            page,
            "<span style=\"color:{}\">&#9632;</span> run {}: {uri}, {which}<br>",
            colour(n),
            n + 1
        )
        .ok();
    }
    page += "</p>";
    for measure in MEASURES {
        picture(&mut page, runs, &names, measure);
    }
    table(&mut page, runs);
    page + "</html>\n"
}

fn picture(page: &mut String, runs: &[&Value], names: &[String], (title, of): Measure) {
    const BAR: usize = 16;
    const LEFT: f64 = 190.0;
    const WIDE: f64 = 560.0;
    let value = |run: &Value, name: &str| {
        let cases = run["cases"].as_array()?;
        Some(of(cases.iter().find(|case| self::name(case) == name)?))
    };
    let all = runs.iter().flat_map(|run| names.iter().filter_map(|name| value(run, name)));
    let most = all.fold(f64::MIN_POSITIVE, f64::max);
    let group = runs.len() * BAR + 10;
    let high = names.len() * group + 10;
    write!(
        page,
        "<h2>{title}</h2><svg role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 860 {high}\" width=\"100%\">"
    )
    .ok();
    for (row, name) in names.iter().enumerate() {
        let top = row * group + 5;
        write!(page, "<text x=\"0\" y=\"{}\">{}</text>", top + 12, escaped(name)).ok();
        for (n, run) in runs.iter().enumerate() {
            let Some(value) = value(run, name) else { continue };
            let (y, width) = (top + n * BAR, (value / most * WIDE).max(1.0));
            write!(
                page,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
                 <text class=\"pale\" x=\"{:.1}\" y=\"{}\">{value:.1}</text>",
                BAR - 3,
                colour(n),
                LEFT + width + 6.0,
                y + 11
            )
            .ok();
        }
    }
    page.push_str("</svg>");
}

fn table(page: &mut String, runs: &[&Value]) {
    page.push_str(
        "<h2>The numbers</h2><table><tr><th>case<th>run<th>requests/s<th>MiB/s<th>p50 us<th>p90 us\
         <th>p99 us<th>p99.9 us<th>max us<th>failed</tr>",
    );
    for (n, run) in runs.iter().enumerate() {
        for case in run["cases"].as_array().into_iter().flatten() {
            let micros = |key: &str| case["latency"][key].as_f64().unwrap_or(0.0) / 1000.0;
            write!(page, "<tr><td>{}<td>{}", escaped(&name(case)), n + 1).ok();
            for (_, of) in &MEASURES[..2] {
                write!(page, "<td>{:.1}", of(case)).ok();
            }
            for key in ["p50", "p90", "p99", "p999", "max"] {
                write!(page, "<td>{:.1}", micros(key)).ok();
            }
            write!(page, "<td>{}</tr>", case["failed"].as_u64().unwrap_or(0)).ok();
        }
    }
    page.push_str("</table>");
}

fn name(case: &Value) -> String {
    let number = |key: &str| case[key].as_u64().unwrap_or(0);
    let size = number("size");
    let size = exact_size(size).unwrap_or_else(|| size.to_string());
    let mode = case["mode"].as_str().unwrap_or("?");
    format!("{mode} {size}, depth {}, {} conn.", number("depth"), number("connections"))
}

const fn colour(run: usize) -> &'static str {
    COLOURS[run % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runs_stand_beside_each_other_and_nothing_gets_out_of_its_place() {
        let case = |rate: f64| {
            json!({"mode": "read", "size": 4096, "depth": 1, "connections": 2, "rate": rate,
                "bytes_per_second": rate * 4096.0, "failed": 0,
                "latency": {"p50": 1000, "p90": 2000, "p99": 3000, "p999": 4000, "max": 5000}})
        };
        let one = json!({"uri": "nbd://<script>/", "cases": [case(100.0)]});
        let two = json!({"uri": "nbd+vsock://2/", "cases": [case(200.0), {"mode": "<b>"}]});
        let page = page(&[&one, &two]);
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains("<b>")
        );
        assert!(page.contains("read 4K, depth 1, 2 conn."));
        assert!(page.contains("width=\"280.0\"") && page.contains("width=\"560.0\""), "{page}");
        assert!(!page.contains("http"), "it needs something else");
    }
}
