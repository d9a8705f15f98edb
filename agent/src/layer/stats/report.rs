//! The report, in nbdkit's format.

use std::{cmp::Reverse, fmt::Write, time::Duration};

use super::count::{ANY, Count, Counts, Sized, VERBS};
use disk::Verb;

/// The report. `threshold`: percent of the requests whose sizes are reported.
pub(super) fn report(counts: &Counts, elapsed: Duration, threshold: u8) -> String {
    let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let mut out = String::new();
    // nbdkit's sums leave out cache requests, which do nothing, and extents, which move no bytes.
    let sum = |verbs: &[Verb], of: fn(&Count) -> u64| -> u64 {
        verbs.iter().filter_map(|verb| counts.of(*verb)).map(of).sum()
    };
    let moving = [Verb::Read, Verb::Write, Verb::Trim, Verb::Zero];
    let ops = sum(&moving, Count::ops) + sum(&[Verb::Extents, Verb::Flush], Count::ops);
    let bytes = sum(&moving, Count::bytes);
    line(
        &mut out,
        format_args!(
            "total: {ops} ops, {}, {}, {}/s",
            seconds(elapsed),
            size(bytes),
            rate(bytes, elapsed)
        ),
    );
    for (verb, name) in VERBS {
        if let Some(count) = counts.of(verb).filter(|count| count.ops() > 0) {
            line(
                &mut out,
                format_args!(
                    "{name}: {} ops, {}, {}, {}/s op, {}/s total",
                    count.ops(),
                    seconds(count.microseconds()),
                    size(count.bytes()),
                    rate(count.bytes(), count.microseconds()),
                    rate(count.bytes(), elapsed),
                ),
            );
            if counts.has_sizes() && verb != Verb::Flush {
                line(&mut out, format_args!("  Request size and alignment breakdown:"));
                breakdown(&mut out, count.sizes(), threshold);
                out.push('\n');
            }
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

/// The most frequent sizes that make up `threshold` percent of the requests.
fn breakdown(out: &mut String, mut sizes: Vec<Sized>, threshold: u8) {
    sizes.sort_by_key(|size| Reverse(size.requests()));
    let all: u64 = sizes.iter().map(Sized::requests).sum();
    let enough = all * u64::from(threshold) / 100;
    let mut told = 0;
    let mut rest = sizes.iter();
    for each in rest.by_ref() {
        let requests = each.requests();
        line(
            out,
            format_args!(
                "    {:2} bits: {:4.1}% ({requests} reqs, {} total)",
                each.bits,
                percent(requests, all),
                size(each.bytes)
            ),
        );
        alignments(out, each, threshold);
        told += requests;
        if told >= enough {
            break;
        }
    }
    let (requests, bytes) =
        rest.fold((0, 0), |(n, bytes), each| (n + each.requests(), bytes + each.bytes));
    if requests > 0 {
        line(
            out,
            format_args!(
                "    other sizes: {:4.1}% ({requests} reqs, {} total)",
                percent(requests, all),
                size(bytes)
            ),
        );
    }
}

/// The alignments of the requests of one size, where they differ.
fn alignments(out: &mut String, size: &Sized, threshold: u8) {
    let all = size.requests();
    let few = all * u64::from(100 - threshold) / 100;
    // An offset that is aligned to 13 bits is aligned to 12 bits too, and offset 0 to any number.
    let mut at_least = size.aligned[ANY];
    let mut steps: Vec<(usize, u64)> = Vec::new();
    for bits in (0..ANY).rev().filter(|bits| size.aligned[*bits] > 0) {
        at_least += size.aligned[bits];
        steps.push((bits, at_least));
    }
    for (bits, requests) in steps.into_iter().rev() {
        let share = percent(requests, all);
        if requests < few {
            line(out, format_args!("         {bits:2}+ bit-aligned: {share:4.1}% ({requests})"));
            break;
        }
        line(out, format_args!("         {bits:2} bit aligned: {share:5.1}% ({requests})"));
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn percent(part: u64, all: u64) -> f64 {
    part as f64 / all as f64 * 100.0
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(microseconds: u64) -> String {
    format!("{:.6} s", microseconds as f64 / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: u64) -> String {
    let of = |unit: u64| bytes as f64 / unit as f64;
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{:.2} KiB", of(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{:.2} MiB", of(1 << 20)),
        _ => format!("{:.2} GiB", of(1 << 30)),
    }
}

fn rate(bytes: u64, microseconds: u64) -> String {
    let each_second = u128::from(bytes) * 1_000_000;
    match each_second.checked_div(microseconds.into()) {
        Some(rate) => size(u64::try_from(rate).unwrap_or(u64::MAX)),
        None => "(n/a)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_format_of_nbdkit() {
        let counts = Counts::new(true);
        let us = Duration::from_micros(1);
        for i in 0..40 {
            counts.add(Verb::Read, (512 * i, 512), us);
        }
        for i in 0..20 {
            counts.add(Verb::Read, (4096 * i, 4096), us);
        }
        for i in 0..3 {
            counts.add(Verb::Read, (65536 * i, 65536), Duration::ZERO);
        }
        counts.add(Verb::Cache, (0, 4096), Duration::ZERO);
        counts.add(Verb::Flush, (0, 0), Duration::ZERO);
        let text = report(&counts, Duration::from_millis(50), 95);
        // nbdkit 1.32.5 wrote this after the same requests, except the bytes of "other sizes", where it repeats the
        // sum of all.
        let expected = "\
total: 64 ops, 0.050000 s, 292.00 KiB, 5.70 MiB/s
read: 63 ops, 0.000060 s, 292.00 KiB, 4.64 GiB/s op, 5.70 MiB/s total
  Request size and alignment breakdown:
     9 bits: 63.5% (40 reqs, 20.00 KiB total)
          9 bit aligned: 100.0% (40)
         10 bit aligned:  50.0% (20)
         11 bit aligned:  25.0% (10)
         12 bit aligned:  12.5% (5)
         13 bit aligned:   7.5% (3)
         14 bit aligned:   5.0% (2)
    12 bits: 31.7% (20 reqs, 80.00 KiB total)
         12 bit aligned: 100.0% (20)
         13 bit aligned:  50.0% (10)
         14 bit aligned:  25.0% (5)
         15 bit aligned:  15.0% (3)
         16 bit aligned:  10.0% (2)
    other sizes:  4.8% (3 reqs, 192.00 KiB total)

cache: 1 ops, 0.000000 s, 4.00 KiB, (n/a)/s op, 80.00 KiB/s total
  Request size and alignment breakdown:
    12 bits: 100.0% (1 reqs, 4.00 KiB total)

flush: 1 ops, 0.000000 s, 0 bytes, (n/a)/s op, 0 bytes/s total
";
        assert_eq!(text, expected);
    }

    #[test]
    fn rare_alignments_are_reported_together() {
        let counts = Counts::new(true);
        for i in 1..=200 {
            counts.add(Verb::Write, (512 * i, 1024), Duration::from_millis(1));
        }
        let text = report(&counts, Duration::from_secs(1), 95);
        assert!(text.contains("\n         13 bit aligned:   6.0% (12)\n"), "{text}");
        assert!(text.contains("\n         14+ bit-aligned:  3.0% (6)\n\n"), "{text}");
    }

    #[test]
    fn without_sizes_each_kind_has_one_line() {
        let counts = Counts::new(false);
        counts.add(Verb::Extents, (0, 1 << 30), Duration::from_secs(1));
        let text = report(&counts, Duration::from_secs(2), 0);
        assert_eq!(
            text,
            "total: 1 ops, 2.000000 s, 0 bytes, 0 bytes/s\n\
             extents: 1 ops, 1.000000 s, 1.00 GiB, 1.00 GiB/s op, 512.00 MiB/s total\n"
        );
        assert_eq!(
            report(&Counts::new(true), Duration::ZERO, 95),
            "total: 0 ops, 0.000000 s, 0 bytes, (n/a)/s\n"
        );
    }
}
