use chrono::{TimeZone as _, Utc};

use super::*;
use crate::providers::{Credentials, whatsapp_cloud::ERRORS};

const STATUSES: &str = include_str!("../../../../tests/fixtures/whatsapp_cloud/callback_statuses.json");
const MIXED: &str = include_str!("../../../../tests/fixtures/whatsapp_cloud/callback_mixed.json");

fn access(secrets: &[(&str, &str)]) -> Access {
    let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned().into()));
    Access::new("https://graph.test", "v25.0", Credentials(secrets.collect()))
}

#[test]
fn the_challenge_is_answered_to_meta_only() {
    let ours = access(&[("verify_token", "v3rify")]);
    let query = |mode: &str, token: &str| {
        [("hub.mode", mode), ("hub.verify_token", token), ("hub.challenge", "1158201444")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    };
    assert_eq!(challenge(&ours, &query("subscribe", "v3rify")), Ok("1158201444".to_owned()));
    for (mode, token) in [("subscribe", "v3rifx"), ("subscribe", ""), ("unsubscribe", "v3rify")] {
        assert_eq!(challenge(&ours, &query(mode, token)), Err(CallbackRejected::ChallengeWrong));
    }
    assert_eq!(challenge(&ours, &BTreeMap::new()), Err(CallbackRejected::ChallengeWrong));
    let missing = challenge(&access(&[]), &query("subscribe", ""));
    assert_eq!(missing, Err(CallbackRejected::SecretMissing("verify_token")));
}

#[test]
fn the_signature_covers_the_raw_bytes() {
    let ours = access(&[("app_secret", "s3cret")]);
    let check = |signature: &str, body: &[u8]| {
        let headers = HeaderMap::from_iter([(SIGNATURE.parse().unwrap(), signature.parse().unwrap())]);
        authenticate(&ours, &headers, body)
    };
    // printf '{"a":1}' | openssl dgst -sha256 -hmac s3cret
    let good = "sha256=5910e62016ef5034272c926c27071992a465c2335cecf41851bda071577f4f6d";
    assert_eq!(check(good, br#"{"a":1}"#), Ok(()));
    assert_eq!(check(&good.replace("sha256=", "sha256=0"), br#"{"a":1}"#), Err(CallbackRejected::SignatureWrong));
    for (signature, body) in [(good, &br#"{"a": 1}"#[..]), ("sha1=00", b"{}"), ("sha256=zz", b"{}"), ("", b"{}")] {
        assert_eq!(check(signature, body), Err(CallbackRejected::SignatureWrong), "{signature}");
    }
    assert_eq!(authenticate(&ours, &HeaderMap::new(), b""), Err(CallbackRejected::SignatureMissing(SIGNATURE)));
    let none = authenticate(&access(&[]), &HeaderMap::new(), b"");
    assert_eq!(none, Err(CallbackRejected::SecretMissing("app_secret")));
}

#[test]
fn every_status_of_every_entry_is_read() {
    let read = read(STATUSES.as_bytes(), &ERRORS).unwrap();
    assert!(read.kept.is_empty() && only_statuses(STATUSES.as_bytes(), &ERRORS).is_some());
    let told: Vec<_> = read.statuses.iter().map(|s| (s.provider_message_id.as_str(), &s.status)).collect();
    let failed = |code: &str, class, reason: &str, wait: Option<u64>| Status::Failed {
        code: code.to_owned(),
        class,
        reason: reason.to_owned(),
        wait: wait.map(std::time::Duration::from_secs),
    };
    let capped = failed(
        "131049",
        FailureClass::ThrottledUser,
        "This message was not delivered to maintain healthy \
        ecosystem engagement.: In order to maintain a healthy ecosystem engagement, the message failed to be \
        delivered.",
        Some(86_400),
    );
    let unwell = failed("131000", FailureClass::Transient, "Something went wrong", None);
    let strange = failed("999999", FailureClass::Message, "New for ***", None);
    let silent = failed("unknown_code", FailureClass::Message, "the provider gave no readable error", None);
    let expected = [
        ("wamid.A", &Status::Sent),
        ("wamid.A", &Status::Delivered),
        ("wamid.A", &Status::Read),
        ("wamid.B", &capped),
        ("wamid.C", &unwell),
        ("wamid.D", &strange),
        ("wamid.E", &silent),
        ("wamid.F", &Status::Other("deleted".to_owned())),
    ];
    assert_eq!(told, expected);
    let first = &read.statuses[0];
    let token = "v1.0a1b2c3d.0192d0c7-7d2a-7aaa-8aaa-123456789abc.17.2".parse().ok();
    assert_eq!((&first.token, first.provider_number_id.as_str()), (&token, "106500000000001"));
    assert_eq!(first.at, Utc.timestamp_opt(1_750_030_073, 0).unwrap());
    // Another sender's data, and a time as a number.
    assert_eq!((&read.statuses[3].token, read.statuses[3].at), (&None, first.at));
}

#[test]
fn what_is_no_status_is_kept_and_costs_no_status() {
    let read = read(MIXED.as_bytes(), &ERRORS).unwrap();
    let ids: Vec<_> = read.statuses.iter().map(|s| s.provider_message_id.as_str()).collect();
    assert_eq!(ids, ["wamid.GOOD", "wamid.WITH_INBOUND"]);
    let kinds: Vec<_> = read.kept.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["unparsed", "management", "management", "inbound", "unparsed", "unparsed", "unparsed"]);
    let said: Vec<_> = read.inbound.iter().map(|i| (i.provider_message_id.as_str(), i.text.as_deref())).collect();
    assert_eq!(said, [("wamid.IN", Some("STOP")), ("wamid.IN2", None)]);
    let click: serde_json::Value = serde_json::from_str(&read.kept[3].1).unwrap();
    assert_eq!(click["value"]["user_actions"][0]["action_type"], "marketing_messages_link_click");
    assert_eq!((&click["phone_number_id"], &click["id"]), (&"106500000000001".into(), &"102290129340398".into()));
    let paused: serde_json::Value = serde_json::from_str(&read.kept[1].1).unwrap();
    assert_eq!((&paused["field"], &paused["time"]), (&"message_template_status_update".into(), &1_739_321_024.into()));
}

#[test]
fn a_body_that_is_not_metas_is_refused() {
    for body in ["", "no", "[]", "{}", r#"{"entry":1}"#, "{\"entry\":[\"\u{0}"] {
        assert!(matches!(read(body.as_bytes(), &ERRORS), Err(CallbackRejected::Malformed(_))), "{body}");
    }
    assert!(read(br#"{"entry":[]}"#, &ERRORS).unwrap().statuses.is_empty());
}
