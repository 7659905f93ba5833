use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    domain::{
        Category,
        address::Address,
        failure::FailureClass,
        template::{ParameterFormat, Params, Template},
    },
    providers::{Credentials, http::HttpSettings, registry},
};

const CODES: &str = include_str!("../../../tests/fixtures/whatsapp_cloud/codes.txt");
const TOKEN: &str = "v1.0a1b2c3d.0192d0c7-7d2a-7aaa-8aaa-123456789abc.17.2";

fn request(to: &str, template: Template, params: &[(&str, &str)]) -> SendRequest {
    let own: Params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let filled = template.fill(&Params::new(), &own).unwrap();
    SendRequest {
        access: Arc::new(Access::new("http://127.0.0.1:9/", "v25.0", Credentials::default())),
        provider_number_id: "106500000000001".into(),
        template: Arc::new(template),
        filled,
        to: Address::from_store(to.to_owned()),
        token: TOKEN.parse().unwrap(),
    }
}

fn template(category: Category, format: ParameterFormat, components: &Value) -> Template {
    Template::parse("spring_offer", "en_US", category, format, components).unwrap()
}

fn written(request: &SendRequest) -> Value {
    serde_json::from_slice(&request::body(request)).unwrap()
}

#[test]
fn every_known_code_has_one_row_with_advice_in_both_languages() {
    let listed: BTreeSet<&str> = CODES.lines().collect();
    assert_eq!(listed.len(), CODES.lines().count(), "a code is listed twice");
    let table = &*ERRORS;
    for code in listed {
        let row = table.get(code).unwrap_or_else(|| panic!("{code} has no row"));
        let texts = [&row.meaning, &row.advice.en, &row.advice.ja];
        assert!(texts.iter().all(|text| text.trim().len() > 5), "{code}");
        assert!(!row.advice.ja.is_ascii(), "{code}");
    }
}

#[test]
fn what_an_answer_leaves_open_a_callback_settles() {
    for code in ["2", "131000", "131016", "133004"] {
        let row = ERRORS.get(code).unwrap();
        assert_eq!((row.class, row.in_callback()), (FailureClass::Uncertain, FailureClass::Transient), "{code}");
    }
    let row = ERRORS.get("131049").unwrap();
    assert_eq!((row.in_callback(), row.wait_s), (FailureClass::ThrottledUser, Some(86_400)));
}

#[test]
fn a_template_without_variables_has_no_components() {
    let plain = template(Category::Utility, ParameterFormat::Positional, &json!([{"type": "BODY", "text": "Hi"}]));
    let expected = json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+16505550001", "type": "template",
        "biz_opaque_callback_data": TOKEN, "template": {"name": "spring_offer", "language": {"code": "en_US"}},
    });
    assert_eq!(written(&request("+16505550001", plain.clone(), &[])), expected);
    let by_id = written(&request("US.13491208655302741918", plain, &[]));
    assert_eq!((by_id.get("to"), &by_id["recipient"]), (None, &"US.13491208655302741918".into()));
}

#[test]
fn every_kind_of_component_is_written_as_meta_takes_it() {
    let components = json!([
        {"type": "HEADER", "format": "DOCUMENT"},
        {"type": "BODY", "text": "Hi {{name}}"},
        {"type": "BUTTONS", "buttons": [
            {"type": "QUICK_REPLY", "text": "Yes"}, {"type": "QUICK_REPLY", "text": "No"},
            {"type": "URL", "url": "https://ex.test/{{1}}"}, {"type": "PHONE_NUMBER", "phone_number": "+1"},
            {"type": "COPY_CODE"}]},
    ]);
    let template = template(Category::Marketing, ParameterFormat::Named, &components);
    let params = [
        ("header.media", "https://ex.test/f/a.pdf?x=1"),
        ("name", "Ann \"A\"\u{2028}"),
        ("button2.payload", "NO"),
        ("button3.url", "abc"),
        ("coupon_code", "SAVE20"),
    ];
    let written = written(&request("+16505550001", template, &params));
    let expected = json!([
        {"type": "header", "parameters": [
            {"type": "document", "document": {"link": "https://ex.test/f/a.pdf?x=1", "filename": "a.pdf"}}]},
        {"type": "body", "parameters": [{"type": "text", "parameter_name": "name", "text": "Ann \"A\"\u{2028}"}]},
        {"type": "button", "sub_type": "quick_reply", "index": "1", "parameters": [{"type": "payload", "payload": "NO"}]},
        {"type": "button", "sub_type": "url", "index": "2", "parameters": [{"type": "text", "text": "abc"}]},
        {"type": "button", "sub_type": "copy_code", "index": "4",
            "parameters": [{"type": "coupon_code", "coupon_code": "SAVE20"}]},
    ]);
    assert_eq!(written["template"]["components"], expected);
}

#[test]
fn headers_are_text_or_an_uploaded_file() {
    let body = json!({"type": "BODY", "text": "Hi"});
    let header = |format, header: Value, params: &[(&str, &str)]| {
        let template = template(Category::Utility, format, &json!([header, body]));
        written(&request("+16505550001", template, params))["template"]["components"][0]["parameters"][0].clone()
    };
    let text = json!({"type": "HEADER", "format": "TEXT", "text": "Hi {{name}}"});
    let written = header(ParameterFormat::Named, text, &[("header", "Ann")]);
    assert_eq!(written, json!({"type": "text", "parameter_name": "name", "text": "Ann"}));
    let image = json!({"type": "HEADER", "format": "IMAGE"});
    let written = header(ParameterFormat::Positional, image, &[("header.media", "1037000000000001")]);
    assert_eq!(written, json!({"type": "image", "image": {"id": "1037000000000001"}}));
}

#[test]
fn a_one_time_password_is_written_for_body_and_button() {
    let components =
        json!([{"type": "BODY"}, {"type": "BUTTONS", "buttons": [{"type": "OTP", "otp_type": "COPY_CODE"}]}]);
    let template = template(Category::Authentication, ParameterFormat::Positional, &components);
    let written = written(&request("+16505550001", template, &[("code", "123456")]));
    let expected = json!([
        {"type": "body", "parameters": [{"type": "text", "text": "123456"}]},
        {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "123456"}]},
    ]);
    assert_eq!(written["template"]["components"], expected);
}

#[tokio::test]
async fn a_send_is_answered_for_each_request_and_needs_a_token() {
    let registry = registry(&HttpClient::new(&HttpSettings::default()).unwrap());
    assert_eq!(registry.names().collect::<Vec<_>>(), ["whatsapp_cloud"]);
    let provider = registry.get("whatsapp_cloud").unwrap();
    let plain = template(Category::Utility, ParameterFormat::Positional, &json!([{"type": "BODY", "text": "Hi"}]));
    let without_token = request("+16505550001", plain.clone(), &[]);
    let mut unreachable = request("+16505550001", plain, &[]);
    let secrets = [("access_token".to_owned(), "t0ken".to_owned().into())];
    unreachable.access = Arc::new(Access::new("http://127.0.0.1:1/", "v25.0", Credentials(secrets.into())));
    assert!(!format!("{unreachable:?}").contains("t0ken"));
    let open: Arc<dyn Gate> = Arc::new(|| true);
    let outcomes = provider.send(&[without_token, unreachable], &open).await;
    let told: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Refused(refusal) => (refusal.code, refusal.class),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [("credentials_missing", FailureClass::Account), ("connect_failed", FailureClass::Transient)];
    assert_eq!(told, expected.map(|(code, class)| (code.to_owned(), class)));
}
