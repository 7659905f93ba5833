use super::*;
use crate::providers::whatsapp_cloud::ERRORS;

fn read(status: u16, body: &str) -> Outcome {
    let status = StatusCode::from_u16(status).unwrap();
    let answer = Answer { status, retry_after: None, body: body.as_bytes().to_vec() };
    outcome(&answer, &Address::from_store("+16505550001".to_owned()), &ERRORS)
}

fn refused(status: u16, body: &str) -> (String, FailureClass) {
    match read(status, body) {
        Outcome::Refused(refusal) => (refusal.code, refusal.class),
        other => panic!("{other:?}"),
    }
}

#[test]
fn acceptance_names_the_message_and_tells_when_it_is_held() {
    for (body, held) in [
        (include_str!("../../../../tests/fixtures/whatsapp_cloud/answer_accepted.json"), false),
        (include_str!("../../../../tests/fixtures/whatsapp_cloud/answer_held.json"), true),
        (r#"{"messages":[{"id":"wamid.HBgLMTY1MDU1NTAwMDEVAgARGBI="}],"new":1}"#, false),
    ] {
        let provider_message_id = "wamid.HBgLMTY1MDU1NTAwMDEVAgARGBI=".to_owned();
        assert_eq!(read(200, body), Outcome::Accepted { provider_message_id, held_by_provider: held });
    }
}

#[test]
fn success_without_a_message_is_uncertain() {
    for body in ["", "{}", "<html>ok</html>", r#"{"messages":[]}"#, r#"{"messages":[{"id":""}]}"#] {
        assert_eq!(refused(200, body), ("answer_unreadable".to_owned(), FailureClass::Uncertain), "{body}");
    }
}

/// Status, code, further fields of the error, the code it is kept under, its class.
type Coded = (u16, i64, &'static str, &'static str, FailureClass);

const CODED: &[Coded] = &[
    (400, 130_429, "", "130429", FailureClass::ThrottledNumber),
    (429, 130_429, "", "130429", FailureClass::ThrottledNumber),
    (429, 80_007, "", "80007", FailureClass::ThrottledAccount),
    (429, 999, "", "999", FailureClass::ThrottledNumber),
    (400, 131_056, "", "131056", FailureClass::ThrottledPair),
    (400, 100, "", "100", FailureClass::Config),
    (400, 100, r#","error_subcode":33"#, "33", FailureClass::Number),
    (400, 100, r#","error_subcode":7"#, "100", FailureClass::Config),
    (403, 217, "", "200", FailureClass::Account),
    (400, 131_215, "", "131020", FailureClass::Config),
    (401, 190, "", "190", FailureClass::Account),
    (200, 190, "", "190", FailureClass::Account),
    (401, 999, "", "999", FailureClass::Account),
    (500, 131_000, "", "131000", FailureClass::Uncertain),
    (400, 131_000, "", "131000", FailureClass::Uncertain),
    (503, 133_004, "", "133004", FailureClass::Uncertain),
    (500, 134_102, "", "134102", FailureClass::Template),
    (500, 131_057, "", "131057", FailureClass::Number),
    (500, 1, "", "1", FailureClass::Uncertain),
    (400, 1, "", "1", FailureClass::Message),
    (500, 999, r#","is_transient":true"#, "999", FailureClass::Uncertain),
    (400, 999, r#","is_transient":true"#, "999", FailureClass::Transient),
    (400, 999, "", "999", FailureClass::Message),
];

#[test]
fn each_code_has_its_class() {
    for (status, code, rest, kept, class) in CODED {
        let body = format!(r#"{{"error":{{"message":"x","code":{code}{rest}}}}}"#);
        assert_eq!(refused(*status, &body), ((*kept).to_owned(), *class), "{status} {body}");
    }
}

#[test]
fn without_a_code_the_status_decides() {
    let cases = [
        (302, FailureClass::Account),
        (400, FailureClass::Message),
        (401, FailureClass::Account),
        (403, FailureClass::Account),
        (404, FailureClass::Account),
        (408, FailureClass::Uncertain),
        (429, FailureClass::ThrottledNumber),
        (500, FailureClass::Uncertain),
        (502, FailureClass::Uncertain),
    ];
    for (status, class) in cases {
        for body in ["<html><body>Bad Gateway</body></html>", "", "{}", "[1", r#"{"error":"x"}"#] {
            assert_eq!(refused(status, body), (format!("http_{status}"), class), "{status} {body}");
        }
    }
}

#[test]
fn the_reason_is_the_providers_without_the_recipient() {
    let cases = [
        (
            include_str!("../../../../tests/fixtures/whatsapp_cloud/answer_throttled.json"),
            "(#130429) Rate limit hit: Cloud API message throughput has been reached.",
        ),
        (r#"{"error":{"code":132001,"message":"no","error_data":"+16505550001 cannot"}}"#, "no: +*** cannot"),
        (r#"{"error":{"code":1,"title":"only a title","error_data":{"details":"only a title"}}}"#, "only a title"),
    ];
    for (body, expected) in cases {
        let Outcome::Refused(refusal) = read(400, body) else { panic!("{body}") };
        assert_eq!(refusal.reason, expected);
    }
}

#[test]
fn a_wait_is_the_answers_own_before_the_tables() {
    let body = r#"{"error":{"code":131056}}"#.as_bytes().to_vec();
    let wait = |retry_after| {
        let answer = Answer { status: StatusCode::BAD_REQUEST, retry_after, body: body.clone() };
        match outcome(&answer, &Address::from_store("+16505550001".to_owned()), &ERRORS) {
            Outcome::Refused(refusal) => refusal.wait.map(|wait| wait.as_secs()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait(None), Some(6));
    assert_eq!(wait(Some(std::time::Duration::from_secs(9))), Some(9));
}
