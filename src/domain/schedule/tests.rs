use chrono::Timelike as _;

use super::*;

fn calendar(expression: &str, zone: &str) -> Calendar {
    Calendar {
        cron: Cron::parse(expression).unwrap(),
        zone: zone.parse().unwrap(),
        start: None,
        end: None,
        except_dates: BTreeSet::new(),
    }
}

fn utc(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn first(calendar: &Calendar, after: &str, count: usize) -> Vec<String> {
    let mut at = utc(after);
    let firings = std::iter::from_fn(|| {
        let next = calendar.next(at)?;
        at = next.at;
        Some(format!("{} {}", next.at.format("%Y-%m-%dT%H:%MZ"), next.shift))
    });
    firings.take(count).collect()
}

/// What Python's cronsim and croniter with zoneinfo found: `tests/fixtures/schedule/generate.py` says how, and why the
/// last column differs from them where it does.
#[test]
fn every_case_of_the_table_agrees_with_an_independent_implementation() {
    let table = include_str!("../../../tests/fixtures/schedule/cases.tsv");
    let (mut cases, mut zones, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [expression, zone, after, expected, _why] = fields[..] else { panic!("{line}") };
        let expected: Vec<&str> = expected.split(' ').collect();
        let found: Vec<String> = first(&calendar(expression, zone), after, expected.len())
            .iter()
            .map(|at| at.split(' ').next().unwrap().to_owned())
            .collect();
        cases += 1;
        zones.insert(zone);
        if found != expected {
            wrong.push(format!("{expression} in {zone} after {after}:\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 40 && zones.len() >= 10, "{cases} cases in {} zones", zones.len());
}

#[test]
fn what_daylight_saving_does_is_told() {
    let new_york = calendar("30 2 * * *", "America/New_York");
    assert_eq!(first(&new_york, "2026-03-07T08:00:00Z", 2), ["2026-03-08T07:00Z gap", "2026-03-09T06:30Z none"]);
    let new_york = calendar("30 1 * * *", "America/New_York");
    assert_eq!(first(&new_york, "2026-11-01T05:00:00Z", 2), ["2026-11-01T05:30Z fold", "2026-11-02T06:30Z none"]);
}

#[test]
fn a_start_counts_and_an_end_does_not() {
    let mut daily = calendar("0 9 * * *", "Asia/Tokyo");
    daily.start = Some(utc("2026-12-02T00:00:00Z"));
    daily.end = Some(utc("2026-12-04T00:00:00Z"));
    daily.except_dates.insert(NaiveDate::from_ymd_opt(2026, 12, 3).unwrap());
    assert_eq!(first(&daily, "2026-11-01T00:00:00Z", 9), ["2026-12-02T00:00Z none"]);
    daily.except_dates.clear();
    assert_eq!(first(&daily, "2026-11-01T00:00:00Z", 9).len(), 2);
}

/// In every zone, over every change of its clock within two years: firings go forward, each is what the wall clock
/// shows unless that does not exist, and no wall-clock time that exists is left out or comes twice.
#[test]
fn no_zone_skips_repeats_or_goes_back() {
    let half_hourly = Cron::parse("*/30 * * * *").unwrap();
    for zone in chrono_tz::TZ_VARIANTS {
        let offset = |at: DateTime<Utc>| {
            use chrono::Offset as _;
            at.with_timezone(&zone).offset().fix().local_minus_utc()
        };
        let begin = utc("2026-01-01T00:00:00Z");
        let changes = (0..730)
            .map(|day| begin + TimeDelta::days(day))
            .filter(|at| offset(*at) != offset(*at + TimeDelta::days(1)));
        for change in changes {
            let (from, until) = (change - TimeDelta::hours(3), change + TimeDelta::hours(30));
            let calendar = Calendar {
                cron: half_hourly.clone(),
                zone,
                start: None,
                end: Some(until),
                except_dates: BTreeSet::new(),
            };
            let (mut at, mut walls) = (from, BTreeSet::new());
            while let Some(next) = calendar.next(at) {
                assert!(next.at > at, "{zone} {next:?} goes back");
                let shown = next.at.with_timezone(&zone).naive_local();
                assert!(next.shift == Shift::Gap || shown == next.wall, "{zone} {next:?} is not what the clock shows");
                assert!(walls.insert(shown), "{zone} {next:?} comes twice");
                at = next.at;
            }
            // Every half hour that some clock of the time showed.
            let minutes = (1..33 * 60).map(|minute| from + TimeDelta::minutes(minute)).filter(|at| *at < until);
            for at in minutes {
                let shown = at.with_timezone(&zone).naive_local();
                let is_first = instant(zone, shown).at == at;
                if shown.minute() % 30 == 0 && shown.second() == 0 && is_first {
                    assert!(walls.contains(&shown), "{zone} {shown} is left out");
                }
            }
        }
    }
}

#[test]
fn a_day_that_a_zone_leaves_out_happens_when_it_is_over() {
    let samoa = calendar("0 12 30 12 *", "Pacific/Apia");
    assert_eq!(first(&samoa, "2011-12-01T00:00:00Z", 1), ["2011-12-30T10:00Z gap"]);
}

fn window(days: &[u8], from: u32, until: Option<u32>) -> Span {
    let hour = |hour| chrono::NaiveTime::from_hms_opt(hour, 0, 0).unwrap();
    Span { days: days.iter().copied().collect(), from: hour(from), until: until.map(hour) }
}

#[test]
fn a_window_gives_its_begin_and_end() {
    let tokyo: Tz = "Asia/Tokyo".parse().unwrap();
    let open = |windows: &Windows, closed: &[NaiveDate], at| {
        let closed = closed.iter().copied().collect();
        windows
            .first_open(tokyo, &closed, utc(at))
            .map(|(from, until)| (from.to_rfc3339(), until.unwrap().to_rfc3339()))
    };
    let pair = |from: &str, until: &str| Some((utc(from).to_rfc3339(), utc(until).to_rfc3339()));
    // Monday to Friday, 9 to 12 and 12 to 18: one window without a seam.
    let weekdays = Windows(vec![window(&[1, 2, 3, 4, 5], 9, Some(12)), window(&[1, 2, 3, 4, 5], 12, Some(18))]);
    let monday = NaiveDate::from_ymd_opt(2026, 11, 30).unwrap();
    assert_eq!(open(&weekdays, &[], "2026-11-27T02:00:00Z"), pair("2026-11-27T02:00:00Z", "2026-11-27T09:00:00Z"));
    assert_eq!(open(&weekdays, &[], "2026-11-27T09:00:00Z"), pair("2026-11-30T00:00:00Z", "2026-11-30T09:00:00Z"));
    assert_eq!(
        open(&weekdays, &[monday], "2026-11-27T09:00:00Z"),
        pair("2026-12-01T00:00:00Z", "2026-12-01T09:00:00Z")
    );
    let evening = Windows(vec![window(&[], 22, None)]);
    assert_eq!(open(&evening, &[], "2026-11-27T02:00:00Z"), pair("2026-11-27T13:00:00Z", "2026-11-27T15:00:00Z"));
    let (from, until) = Windows::default().first_open(tokyo, &BTreeSet::new(), utc("2026-11-27T02:00:00Z")).unwrap();
    assert_eq!((from, until), (utc("2026-11-27T02:00:00Z"), None));
}
