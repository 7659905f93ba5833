use super::*;

const LIMITS: Limits = Limits {
    failing_percent: 20,
    failing_over: 50,
    silent_accepted: 20,
    uncertain: TimeDelta::minutes(15),
    outbox: TimeDelta::minutes(2),
    unrouted: TimeDelta::minutes(1),
    no_worker: TimeDelta::seconds(30),
    remind: Some(TimeDelta::hours(4)),
};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

fn sign(kind: AlarmKind) -> Sign {
    Sign {
        kind,
        subject: "batch:7".to_owned(),
        tenant: None,
        scope: "batch:7".to_owned(),
        name: String::new(),
        detail: String::new(),
        count: 1,
        of: 0,
        since: Some(at(0)),
        goes_on: true,
    }
}

fn noted(kind: AlarmKind, raised: Option<i64>) -> Noted {
    let raised_at = raised.map(at);
    Noted { id: 5, kind, subject: "batch:7".to_owned(), since: at(0), raised_at, told_at: raised_at }
}

/// What is done about one sign at a minute, known or not.
fn decided(minute: i64, sign: &Sign, known: Option<Noted>) -> Vec<Step<'_>> {
    let known: Vec<Noted> = known.into_iter().collect();
    steps(at(minute), &LIMITS, AlarmKind::ALL, std::slice::from_ref(sign), &known)
}

#[test]
fn an_alarm_is_raised_once_told_again_and_cleared() {
    let hold = sign(AlarmKind::Hold);
    assert_eq!(decided(0, &hold, None), [Step::RaiseNew(&hold)]);
    let known = noted(AlarmKind::Hold, Some(0));
    assert_eq!(decided(1, &hold, Some(known.clone())), [Step::Keep(5, &hold)]);
    assert_eq!(decided(239, &hold, Some(known.clone())), [Step::Keep(5, &hold)]);
    assert_eq!(decided(240, &hold, Some(known.clone())), [Step::Remind(5, &hold)]);
    assert_eq!(steps(at(241), &LIMITS, AlarmKind::ALL, &[], std::slice::from_ref(&known)), [Step::Clear(5)]);
    let never = Limits { remind: None, ..LIMITS };
    let found = std::slice::from_ref(&hold);
    assert_eq!(steps(at(9999), &never, AlarmKind::ALL, found, &[known]), [Step::Keep(5, &hold)]);
}

#[test]
fn what_could_not_be_looked_at_stays_as_it_is() {
    let known = [noted(AlarmKind::Unrouted, Some(0))];
    assert_eq!(steps(at(9), &LIMITS, &[AlarmKind::Hold], &[], &known), []);
}

#[test]
fn what_only_looking_tells_is_noted_first() {
    let unserved = Sign { since: None, ..sign(AlarmKind::NoWorker) };
    assert_eq!(decided(0, &unserved, None), [Step::Note(&unserved)]);
    assert_eq!(decided(0, &unserved, Some(noted(AlarmKind::NoWorker, None))), [Step::Keep(5, &unserved)]);
    assert_eq!(decided(1, &unserved, Some(noted(AlarmKind::NoWorker, None))), [Step::Raise(5, &unserved)]);
    let passed = steps(at(1), &LIMITS, AlarmKind::ALL, &[], &[noted(AlarmKind::NoWorker, None)]);
    assert_eq!(passed, [Step::Forget(5)], "nobody has heard of it, so nobody hears of its end");
}

#[test]
fn what_is_young_is_none_yet_and_what_was_raised_stays() {
    for (kind, minutes) in [(AlarmKind::Uncertain, 15), (AlarmKind::Outbox, 2)] {
        let young = sign(kind);
        assert_eq!(decided(minutes - 1, &young, None), [], "{kind}");
        assert_eq!(decided(minutes, &young, None), [Step::RaiseNew(&young)], "{kind}");
        // The oldest was published, and the next one is younger.
        let rest = Sign { since: Some(at(minutes)), ..sign(kind) };
        assert_eq!(decided(minutes, &rest, Some(noted(kind, Some(minutes)))), [Step::Keep(5, &rest)], "{kind}");
    }
}

#[test]
fn a_batch_fails_above_its_share_of_enough_messages() {
    let of = |count, of| Sign { count, of, since: None, ..sign(AlarmKind::BatchFailing) };
    assert_eq!(decided(0, &of(49, 49), None), [], "too few to say");
    assert_eq!(decided(0, &of(9, 50), None), []);
    let fails = of(10, 50);
    assert_eq!(decided(0, &fails, None), [Step::RaiseNew(&fails)]);
    assert_eq!(decided(9, &of(10, 51), Some(noted(AlarmKind::BatchFailing, Some(0)))), [Step::Clear(5)]);
    // One that is over is told as well, and does not stand for ever.
    let over = Sign { goes_on: false, ..of(50, 50) };
    assert_eq!(decided(0, &over, None), [Step::RaiseNew(&over)]);
    assert_eq!(decided(59, &over, Some(noted(AlarmKind::BatchFailing, Some(0)))), [Step::Keep(5, &over)]);
    assert_eq!(decided(60, &over, Some(noted(AlarmKind::BatchFailing, Some(0)))), [Step::Clear(5)]);
}

#[test]
fn a_silent_provider_stays_so_until_it_says_something() {
    let accepted = |count, goes_on| Sign { count, goes_on, ..sign(AlarmKind::WebhookSilent) };
    assert_eq!(decided(0, &accepted(19, true), None), []);
    let silent = accepted(20, true);
    assert_eq!(decided(0, &silent, None), [Step::RaiseNew(&silent)]);
    let known = || Some(noted(AlarmKind::WebhookSilent, Some(0)));
    let quiet = accepted(0, true);
    assert_eq!(decided(1, &quiet, known()), [Step::Keep(5, &quiet)], "nothing is sent any more");
    assert_eq!(decided(1, &accepted(0, false), known()), [Step::Clear(5)]);
}

#[test]
fn people_read_scope_count_since_and_what_to_type() {
    let number = Sign {
        subject: "number:4".to_owned(),
        scope: "number:4".to_owned(),
        name: "+81312340001".to_owned(),
        detail: "call +819012345678 or 09012345678, see 2026-11-26 and 019acbde-1234-7000-8123-456789012345".to_owned(),
        count: 1000,
        ..sign(AlarmKind::NoWorker)
    };
    let mut alarm = Alarm::new(5, at(1), &number, at(0));
    assert_eq!(
        text(&[(News::Raised, alarm.clone())]),
        "ALARM no_worker: number:4 (+8131****001), count at least 1000, since 1970-01-01 00:00 UTC: call +8190*****678 or \
         09012***678, see 2026-11-26 and 019acbde-1234-7000-8123-456789012345\n  next: campaign-dispatch serve --roles dispatch"
    );
    alarm.detail.clear();
    assert_eq!(
        text(&[(News::Cleared, alarm.clone())]),
        "OVER no_worker: number:4 (+8131****001), since 1970-01-01 00:00 UTC"
    );
    let many = vec![(News::Reminder, alarm); 12];
    let told = text(&many);
    assert!(told.starts_with("STILL ") && told.ends_with("and 2 more: campaign-dispatch status"), "{told}");
    assert_eq!(told.lines().count(), 21);
}

#[test]
fn every_kind_says_what_to_type_next() {
    for kind in AlarmKind::ALL {
        let next = Alarm::new(1, at(0), &Sign { name: "spring".to_owned(), ..sign(*kind) }, at(0)).next;
        assert!(next.starts_with("campaign-dispatch ") && next.len() > 20, "{kind}: {next}");
    }
}
