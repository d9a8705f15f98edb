//! When certificates and revocation lists expire, and the warnings before that.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::der::{Der, EXPLICIT_VERSION, GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME};

const DAY: u64 = 24 * 60 * 60;
/// How long before the end of a file's validity the log warns, in seconds.
const AHEAD: u64 = 14 * DAY;

/// A time in UTC as certificates contain it: year, month, day, hour, minute, second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment([u32; 6]);

impl Moment {
    /// Reads UTCTime or GeneralizedTime (RFC 5280, section 4.1.2.5).
    fn read(der: &mut Der<'_>) -> Option<Self> {
        let (tag, digits, _) = der.next()?;
        let digits = str::from_utf8(digits).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = digits.split_at_checked(2)?;
                let year: u32 = number(year)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = digits.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let mut moment = [year, 0, 0, 0, 0, 0];
        let (pairs, []) = rest.as_bytes().as_chunks::<2>() else { return None };
        if pairs.len() != 5 {
            return None;
        }
        for (part, pair) in moment[1..].iter_mut().zip(pairs) {
            *part = number(str::from_utf8(pair).ok()?)?;
        }
        let in_range = (1..=12).contains(&moment[1]) && (1..=31).contains(&moment[2]);
        in_range.then_some(Self(moment))
    }

    /// Seconds since 1970. A time before 1970 is 0.
    fn seconds(self) -> u64 {
        let [year, month, day, hour, minute, second] = self.0.map(i64::from);
        // Years are counted from March, so that the leap day is the last day of a year.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * year + year / 4 - year / 100 + year / 400;
        let days = days + (153 * month + 2) / 5 + day - 1 - 719_468;
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        u64::try_from(seconds).unwrap_or_default()
    }
}

fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day, hour, minute, second] = self.0;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// What a file with a validity period contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The server's certificate, or an intermediate one up to its CA.
    Own,
    Ca,
    /// A list of revoked certificates.
    Revoked,
}

/// The validity period of a file: the intersection of the periods of everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term {
    path: PathBuf,
    part: Part,
    from: Option<Moment>,
    until: Moment,
}

/// What to report about a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    NotYet,
    /// It ends in this many days.
    Soon(u64),
    Over,
}

impl Term {
    /// `None` if no date can be read.
    pub(super) fn of_certificates(
        path: PathBuf,
        part: Part,
        certificates: &[CertificateDer<'_>],
    ) -> Option<Self> {
        let read: Vec<_> = certificates.iter().filter_map(|it| validity(it)).collect();
        let from = read.iter().map(|(from, _)| *from).max();
        Some(Self { path, part, from, until: read.iter().map(|(_, until)| *until).min()? })
    }

    /// `None` if there is no list.
    pub(super) fn of_lists(
        path: PathBuf,
        lists: &[CertificateRevocationListDer<'_>],
    ) -> Option<Self> {
        let until = lists.iter().filter_map(|list| next_update(list)).min()?;
        Some(Self { path, part: Part::Revoked, from: None, until })
    }

    fn notice(&self, now: u64) -> Option<Notice> {
        if self.until.seconds() <= now {
            return Some(Notice::Over);
        }
        if self.from.is_some_and(|from| from.seconds() > now) {
            return Some(Notice::NotYet);
        }
        let left = self.until.seconds() - now;
        (left <= AHEAD).then_some(Notice::Soon(left / DAY))
    }

    /// Logs the notice for this term, if there is one.
    fn say(&self, now: u64) {
        let Some(notice) = self.notice(now) else { return };
        let line = self.line(notice);
        if matches!(notice, Notice::Soon(_)) {
            tracing::warn!("{line}");
        } else {
            tracing::error!("{line}");
        }
    }

    fn line(&self, notice: Notice) -> String {
        const RENEW: &str = "renew it and send HUP";
        let (path, until) = (self.path.display(), self.until);
        let then = match self.part {
            Part::Own => "clients refuse this server",
            Part::Ca => "clients that trust it refuse this server",
            Part::Revoked => "no client's certificate is taken",
        };
        match (notice, self.part) {
            (Notice::Over, Part::Revoked) => {
                format!("{path} was to be renewed by {until}, and {then} until it is; {RENEW}")
            }
            (Notice::Over, _) => format!("{path} has expired at {until}, and {then}; {RENEW}"),
            (Notice::Soon(days), Part::Revoked) => {
                let days = Days(days);
                format!("{path} is to be renewed by {until} ({days}): {then} after that; {RENEW}")
            }
            (Notice::Soon(days), _) => {
                format!("{path} expires at {until} ({}): {then} then; {RENEW}", Days(days))
            }
            (Notice::NotYet, _) => {
                let from = self.from.unwrap_or(self.until);
                format!("{path} is valid from {from} on, and {then} until then")
            }
        }
    }
}

struct Days(u64);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("in less than a day"),
            1 => f.write_str("in 1 day"),
            days => write!(f, "in {days} days"),
        }
    }
}

/// Logs what there is to report about each term. Returns the time until there may be more: a day, or less if a term
/// begins, nears its end or ends before that.
pub(super) fn say(terms: &[Term]) -> Duration {
    let now = now();
    for term in terms {
        term.say(now);
    }
    Duration::from_secs(until_change(terms, now))
}

/// As `say`, without logging.
pub(super) fn pause(terms: &[Term]) -> Duration {
    Duration::from_secs(until_change(terms, now()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn until_change(terms: &[Term], now: u64) -> u64 {
    let changes = terms.iter().flat_map(|term| {
        let (from, until) = (term.from.map_or(0, Moment::seconds), term.until.seconds());
        [from, until.saturating_sub(AHEAD), until]
    });
    // One second later, when any clock agrees.
    changes.filter(|at| *at > now).map(|at| at - now + 1).min().unwrap_or(DAY).min(DAY)
}

/// The validity period of a certificate (RFC 5280, section 4.1).
fn validity(certificate: &[u8]) -> Option<(Moment, Moment)> {
    let mut whole = Der::of(Der::of(certificate).expect(SEQUENCE)?);
    let mut fields = Der::of(whole.expect(SEQUENCE)?);
    if fields.is(EXPLICIT_VERSION) {
        fields.next()?;
    }
    fields.expect(INTEGER)?; // The serial number.
    fields.expect(SEQUENCE)?; // The signature algorithm.
    fields.expect(SEQUENCE)?; // The issuer.
    let mut dates = Der::of(fields.expect(SEQUENCE)?);
    Some((Moment::read(&mut dates)?, Moment::read(&mut dates)?))
}

/// When a newer list will be published (RFC 5280, section 5.1).
fn next_update(list: &[u8]) -> Option<Moment> {
    let mut whole = Der::of(Der::of(list).expect(SEQUENCE)?);
    let mut fields = Der::of(whole.expect(SEQUENCE)?);
    if fields.is(INTEGER) {
        fields.next()?; // The version.
    }
    fields.expect(SEQUENCE)?; // The signature algorithm.
    fields.expect(SEQUENCE)?; // The issuer.
    Moment::read(&mut fields)?; // The time of this update.
    Moment::read(&mut fields)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
        KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn moment(text: &str) -> Moment {
        let tag = if text.len() == 13 { UTC_TIME } else { GENERALIZED_TIME };
        let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        Moment::read(&mut Der::of(&bytes)).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn times_agree_with_date_1() {
        for (text, seconds, printed) in [
            ("700101000000Z", 0, "1970-01-01 00:00:00 UTC"),
            ("491231235959Z", 2_524_607_999, "2049-12-31 23:59:59 UTC"),
            ("500101000000Z", 0, "1950-01-01 00:00:00 UTC"),
            ("000229000000Z", 951_782_400, "2000-02-29 00:00:00 UTC"),
            ("20241231235959Z", 1_735_689_599, "2024-12-31 23:59:59 UTC"),
            ("21000301000000Z", 4_107_542_400, "2100-03-01 00:00:00 UTC"),
            ("99991231235959Z", 253_402_300_799, "9999-12-31 23:59:59 UTC"),
        ] {
            let moment = moment(text);
            assert_eq!((moment.seconds(), &*moment.to_string()), (seconds, printed), "{text}");
        }
        for bad in ["", "7001010000Z", "7001010000000", "+00101000000Z", "701301000000Z"] {
            let bytes = [&[UTC_TIME, u8::try_from(bad.len()).unwrap()], bad.as_bytes()].concat();
            assert_eq!(Moment::read(&mut Der::of(&bytes)), None, "{bad}");
        }
    }

    #[test]
    fn dates_are_read_out_of_certificates_and_lists() {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2001, 2, 3);
        params.not_after = date_time_ymd(2055, 6, 7);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let path = || PathBuf::from("c.pem");
        let certificates = [certificate.der().clone()];
        let term = Term::of_certificates(path(), Part::Own, &certificates).unwrap();
        assert_eq!(term.from, Some(moment("20010203000000Z")));
        assert_eq!(term.until, moment("20550607000000Z"));
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(2031, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::new(params, key)).unwrap();
        let term = Term::of_lists(path(), &[list.der().clone()]).unwrap();
        assert_eq!((term.from, term.until), (None, moment("310102000000Z")));
        assert_eq!(Term::of_lists(path(), &[]), None);
    }

    #[test]
    fn the_log_warns_fourteen_days_before_a_file_expires() {
        let until = moment("20301231000000Z");
        let path = PathBuf::from("/pki/server-cert.pem");
        let from = Some(moment("20300101000000Z"));
        let term = Term { path, part: Part::Own, from, until };
        let end = until.seconds();
        for (now, notice, part) in [
            (0, Some(Notice::NotYet), "is valid from 2030-01-01 00:00:00 UTC on"),
            (end - AHEAD - 1, None, ""),
            (end - AHEAD, Some(Notice::Soon(14)), "(in 14 days): clients refuse this server then"),
            (end - 1, Some(Notice::Soon(0)), "in less than a day"),
            (end, Some(Notice::Over), "has expired at 2030-12-31 00:00:00 UTC, and clients refuse"),
            (end + 10 * DAY, Some(Notice::Over), "renew it and send HUP"),
        ] {
            assert_eq!(term.notice(now), notice, "{now}");
            let line = notice.map(|notice| term.line(notice)).unwrap_or_default();
            assert!(line.contains(part), "{line}");
        }
        let terms = [term];
        assert_eq!(until_change(&terms, end - AHEAD - 100), 101);
        assert_eq!(until_change(&terms, end - AHEAD + 1), DAY);
        assert_eq!(until_change(&terms, end - 100), 101);
        assert_eq!(until_change(&terms, end + 1), DAY);
        assert_eq!(until_change(&[], 7), DAY);
    }
}
