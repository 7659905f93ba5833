use serde_json::{Value, json};

use super::*;

fn parse(category: Category, format: ParameterFormat, components: &Value) -> Result<Template, Vec<TemplateProblem>> {
    Template::parse("spring_offer", "en_US", category, format, components)
}

fn offer() -> Template {
    let components = json!([
        {"type": "header", "format": "image", "example": {"header_handle": ["4::aW1h"]}},
        {"type": "BODY", "text": "Hi {{name}}, {{percent}} off, {{name}}!", "example": {"body_text_named_params": [
            {"param_name": "name", "example": "Ann"}, {"param_name": "percent", "example": "25%"}]}},
        {"type": "FOOTER", "text": "Reply STOP to stop"},
        {"type": "BUTTONS", "buttons": [
            {"type": "QUICK_REPLY", "text": "Stop"},
            {"type": "URL", "text": "Shop", "url": "https://ex.test/o/{{1}}", "example": ["https://ex.test/o/abc"]},
            {"type": "URL", "text": "Site", "url": "https://ex.test/"},
            {"type": "PHONE_NUMBER", "text": "Call", "phone_number": "+16505550001"},
            {"type": "copy_code", "example": "SAVE20"},
        ]},
    ]);
    parse(Category::Marketing, ParameterFormat::Named, &components).unwrap()
}

fn params(pairs: &[(&str, &str)]) -> Params {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn whole() -> Params {
    params(&[
        ("header.media", "https://ex.test/a.png"),
        ("name", "Ann"),
        ("body.percent", "25%"),
        ("button2.url", "abc"),
        ("coupon_code", "SAVE20"),
    ])
}

#[test]
fn slots_are_listed_with_kind_length_and_example() {
    let listed: Vec<_> = offer()
        .slots
        .iter()
        .map(|s| {
            format!("{} {} {} {} {}", s.name, s.kind, s.max_chars, s.required, s.example.as_deref().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        listed,
        [
            "header.media media 2000 true -",
            "body.name text 1024 true Ann",
            "body.percent text 1024 true 25%",
            "button1.payload payload 128 false -",
            "button2.url url_suffix 1982 true abc",
            "coupon_code coupon 20 true SAVE20",
        ]
    );
}

#[test]
fn own_values_win_and_a_blank_one_leaves_the_default() {
    let filled = offer().fill(&whole(), &params(&[("percent", "30%"), ("name", " ")])).unwrap();
    let values: Vec<_> = (0..7).map(|slot| filled.get(slot)).collect();
    assert_eq!(values, ["https://ex.test/a.png", "Ann", "30%", "", "abc", "SAVE20", ""]);
    assert!(!format!("{filled:?}").contains("Ann"));
}

#[test]
fn every_bad_value_is_named_with_its_code() {
    let long = "x".repeat(1025);
    let cases = [
        ("name", "a\nb", "body.name", "ill_formed"),
        ("name", "a\tb", "body.name", "ill_formed"),
        ("name", "a     b", "body.name", "ill_formed"),
        ("name", long.as_str(), "body.name", "too_long"),
        ("header.media", "http://ex.test/a.png", "header.media", "ill_formed"),
        ("header.media", "https://", "header.media", "ill_formed"),
        ("header.media", "12a", "header.media", "ill_formed"),
        ("button2.url", "a b", "button2.url", "ill_formed"),
        ("coupon_code", "SAVE-TWENTY-PERCENT-NOW", "coupon_code", "too_long"),
        ("coupon_code", "SAVE 20", "coupon_code", "ill_formed"),
        ("body.nmae", "Ann", "body.nmae", "unknown_slot"),
    ];
    let template = offer();
    for (name, value, slot, code) in cases {
        let own = params(&[(name, value)]);
        let problems = template.fill(&whole(), &own).unwrap_err();
        let found: Vec<_> = problems.iter().map(|p| (p.slot.as_str(), p.code)).collect();
        assert_eq!(found, [(slot, code)], "{name}={value}");
        assert_eq!(template.check_names(&own), problems, "{name}={value}");
    }
}

#[test]
fn good_values_at_the_edge_pass() {
    let own = params(&[
        ("name", &"é".repeat(1024)),
        ("percent", "a    b"),
        ("header.media", "1037"),
        ("button1.payload", "NO"),
    ]);
    assert!(offer().fill(&whole(), &own).is_ok());
}

#[test]
fn what_is_missing_is_told_at_once_and_not_for_defaults() {
    let problems = offer().fill(&Params::new(), &params(&[("name", "Ann")])).unwrap_err();
    let slots: Vec<_> = problems.iter().map(|p| (p.slot.as_str(), p.code)).collect();
    let missing = ["header.media", "body.percent", "button2.url", "coupon_code"].map(|slot| (slot, "missing_slot"));
    assert_eq!(slots, missing);
    assert!(offer().check_names(&params(&[("name", "Ann")])).is_empty());
}

#[test]
fn an_unknown_name_gets_the_nearest_and_two_names_for_one_slot_are_refused() {
    let problem = &offer().check_names(&params(&[("nmae", "Ann")]))[0];
    assert_eq!((problem.code, problem.did_you_mean.first().unwrap().as_str()), ("unknown_slot", "body.name"));
    let problem = &offer().check_names(&params(&[("name", "Ann"), ("body.name", "Bob")]))[0];
    assert_eq!((problem.code, problem.slot.as_str()), ("ill_formed", "body.name"));
}

#[test]
fn positional_slots_keep_their_number_and_a_lone_body_may_be_long() {
    let components = json!([{"type": "BODY", "text": "{{2}} and {{1}}", "example": {"body_text": [["a", "b"]]}}]);
    let template = parse(Category::Utility, ParameterFormat::Positional, &components).unwrap();
    let slots: Vec<_> = template.slots.iter().map(|s| (s.name.as_str(), s.example.as_deref(), s.max_chars)).collect();
    assert_eq!(slots, [("body.1", Some("a"), 32_768), ("body.2", Some("b"), 32_768)]);
    assert_eq!(template.slot("2").map(|s| s.name.as_str()), Some("body.2"));
    assert!(template.slot("code").is_none());
}

#[test]
fn an_authentication_template_has_one_slot_however_it_was_read() {
    let created = json!([{"type": "BODY", "add_security_recommendation": true}, {"type": "FOOTER", "code_expiration_minutes": 5},
        {"type": "BUTTONS", "buttons": [{"type": "OTP", "otp_type": "COPY_CODE"}]}]);
    let synced = json!([{"type": "BODY", "text": "*{{1}}* is your verification code."},
        {"type": "BUTTONS", "buttons": [{"type": "URL", "text": "Copy code", "url": "https://ex.test/otp/?code=otp{{1}}"}]}]);
    for components in [created, synced] {
        let template = parse(Category::Authentication, ParameterFormat::Positional, &components).unwrap();
        assert_eq!(template.slots.len(), 1);
        assert_eq!(template.components.buttons[0].action, ButtonAction::OneTimePassword { slot: 0 });
        for name in ["code", "body.code", "body.1", "1"] {
            assert_eq!(template.fill(&Params::new(), &params(&[(name, "123456")])).unwrap().get(0), "123456");
        }
        assert_eq!(template.check_names(&params(&[("code", "1234567890123456")]))[0].code, "too_long");
    }
}

#[test]
fn what_cannot_be_sent_is_refused_with_its_place() {
    let body = json!({"type": "BODY", "text": "Hi"});
    let button = |button: Value| json!([body, {"type": "BUTTONS", "buttons": [button]}]);
    let cases = [
        (json!({}), ""),
        (json!([{"type": "FOOTER", "text": "x"}]), ""),
        (json!([body, body]), "/1/type"),
        (json!([body, {"type": "CAROUSEL", "cards": []}]), "/1/type"),
        (json!([body, {"type": "limited_time_offer"}]), "/1/type"),
        (json!([{"type": "HEADER", "format": "LOCATION"}, body]), "/0/format"),
        (json!([{"type": "HEADER", "format": "TEXT", "text": "{{a}} {{b}}"}, body]), "/0/text"),
        (json!([{"type": "BODY", "text": "Hi {{name"}]), "/0/text"),
        (json!([{"type": "BODY", "text": "Hi {{Name}}"}]), "/0/text"),
        (json!([body, {"type": "FOOTER", "text": "{{a}}"}]), "/1/text"),
        (button(json!({"type": "FLOW"})), "/1/buttons/0/type"),
        (button(json!({"type": "OTP"})), "/1/buttons/0/type"),
        (button(json!({"type": "URL", "url": "https://ex.test/{{1}}/x"})), "/1/buttons/0/url"),
    ];
    for (components, pointer) in cases {
        let problems = parse(Category::Marketing, ParameterFormat::Named, &components).unwrap_err();
        assert!(problems.len() == 1 && problems[0].pointer == pointer, "{components}: {problems:?}");
    }
    let gap = json!([{"type": "BODY", "text": "{{1}} {{3}}"}]);
    assert!(parse(Category::Utility, ParameterFormat::Positional, &gap).is_err());
}
