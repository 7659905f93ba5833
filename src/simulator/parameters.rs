//! Compares the parameters of a send with what its template asks for, in the provider's words.

use serde_json::Value;

use crate::simulator::{
    errors::ApiError,
    template::{Button, Component, Content, Header, Text},
};

const BODY_LENGTH: usize = 1024;
const HEADER_LENGTH: usize = 60;
const COUPON_LENGTH: usize = 20;

/// Whether `components` fill `content`; `place` prefixes complaints about a card.
pub(super) fn check(content: &Content, components: &[Component<'_>], now_ms: u64, place: &str) -> Result<(), ApiError> {
    for component in components {
        match component.kind.to_ascii_lowercase().as_str() {
            "header" | "body" | "button" | "limited_time_offer" | "carousel" => {}
            other => {
                return Err(ApiError::parameter(format!("(#100) Unexpected component type \"{other}\"")));
            }
        }
    }
    header(content, given(components, "header"), place)?;
    text(&content.body, given(components, "body"), &format!("{place}body"), BODY_LENGTH)?;
    buttons(content, components, place)?;
    offer(content, given(components, "limited_time_offer"), now_ms)?;
    carousel(content, components, now_ms)
}

fn given<'a>(components: &'a [Component<'_>], kind: &str) -> &'a [Value] {
    let found = components.iter().find(|component| component.kind.eq_ignore_ascii_case(kind));
    found.map(|component| component.parameters.as_slice()).unwrap_or_default()
}

fn header(content: &Content, given: &[Value], place: &str) -> Result<(), ApiError> {
    let place = format!("{place}header");
    match &content.header {
        Header::None => count(&place, given.len(), 0),
        Header::Text(wanted) => text(wanted, given, &place, HEADER_LENGTH),
        Header::Media(media) => {
            count(&place, given.len(), 1)?;
            let parameter = given.first().unwrap_or(&Value::Null);
            let kind = word(parameter, "type");
            if kind != media {
                let (wanted, got) = (media.to_uppercase(), kind.to_uppercase());
                return Err(ApiError::of(132_012)
                    .details(format!("{place}: Format mismatch, expected {wanted}, received {got}")));
            }
            let object = parameter.get(media);
            let has = |key: &str| object.is_some_and(|object| !word(object, key).is_empty());
            if matches!(media.as_str(), "image" | "video" | "document" | "gif") && has("id") == has("link") {
                return Err(ApiError::of(131_008).details(format!("{place}: exactly one of id and link is required")));
            }
            if object.is_none() {
                return Err(ApiError::of(131_008).details(format!("{place}: {media} is required")));
            }
            Ok(())
        }
    }
}

fn count(place: &str, given: usize, expected: usize) -> Result<(), ApiError> {
    if given == expected {
        return Ok(());
    }
    Err(ApiError::of(132_000).details(format!(
        "{place}: number of localizable_params ({given}) does not match the expected number of params ({expected})"
    )))
}

fn text(wanted: &Text, given: &[Value], place: &str, most: usize) -> Result<(), ApiError> {
    count(place, given.len(), wanted.variables.len())?;
    let mut length = wanted.length;
    for (index, parameter) in given.iter().enumerate() {
        name(wanted, given, index, parameter, place)?;
        length += value(parameter, index, place)?;
    }
    if length > most {
        return Err(ApiError::of(132_005).details(format!("{place}: {length} characters exceed the limit of {most}")));
    }
    Ok(())
}

fn name(wanted: &Text, all: &[Value], index: usize, parameter: &Value, place: &str) -> Result<(), ApiError> {
    let mismatch = |details: String| Err(ApiError::of(132_012).details(details));
    match (wanted.named, parameter.get("parameter_name").and_then(Value::as_str)) {
        (false, None) => Ok(()),
        (false, Some(given)) => {
            mismatch(format!("{place}: parameter name ({given}) given, expected positional params"))
        }
        (true, None) => mismatch(format!("{place}: Parameter name is missing or empty at index {index}")),
        (true, Some(given)) => {
            let earlier = all.iter().take(index).any(|other| word(other, "parameter_name") == given);
            if earlier || !wanted.variables.iter().any(|variable| variable == given) {
                return mismatch(format!("{place}: parameter name ({given}) does not match the template's params"));
            }
            Ok(())
        }
    }
}

/// Checks one value and returns its length in characters.
fn value(parameter: &Value, index: usize, place: &str) -> Result<usize, ApiError> {
    let text = match word(parameter, "type") {
        "text" => word(parameter, "text"),
        kind @ ("currency" | "date_time") => parameter.get(kind).map_or("", |object| word(object, "fallback_value")),
        other => {
            return Err(ApiError::of(132_012)
                .details(format!("{place}: parameter at index {index} has type {other}, expected TEXT")));
        }
    };
    if text.is_empty() {
        return Err(ApiError::of(131_008)
            .details(format!("{place}: Parameter of type text is missing text value at index {index}")));
    }
    if text.contains(['\n', '\t']) || text.contains("    ") {
        return Err(ApiError::of(132_012).details(format!(
            "{place}: Param text cannot have new-line/tab characters or more than 4 consecutive spaces"
        )));
    }
    Ok(text.chars().count())
}

fn buttons(content: &Content, components: &[Component<'_>], place: &str) -> Result<(), ApiError> {
    let given: Vec<_> = components.iter().filter(|component| component.kind.eq_ignore_ascii_case("button")).collect();
    for component in &given {
        let Some(index) = index(component) else {
            return Err(ApiError::of(131_008).details(format!("{place}buttons: index is required")));
        };
        if !content.buttons.get(index).is_some_and(|&button| fits(button, component)) {
            return Err(ApiError::of(132_018)
                .details(format!("{place}buttons: Button at index {index} does not take this parameter")));
        }
    }
    for (place_of_button, &button) in content.buttons.iter().enumerate() {
        let component = given.iter().find(|component| index(component) == Some(place_of_button));
        let parameter = component.and_then(|component| component.parameters.first());
        let what = format!("{place}buttons: Button at index {place_of_button} of type {}", button.name());
        filled(button, parameter, &what)?;
    }
    Ok(())
}

/// The provider takes `0` and `"0"`.
fn index(component: &Component<'_>) -> Option<usize> {
    let index = component.index.as_ref()?;
    index
        .as_str()
        .map_or_else(|| index.as_u64().and_then(|index| usize::try_from(index).ok()), |text| text.parse().ok())
}

fn fits(button: Button, component: &Component<'_>) -> bool {
    let sub_type = component.sub_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    let expected = match button {
        Button::Fixed => return false,
        Button::QuickReply => "quick_reply",
        Button::Url => "url",
        Button::CopyCode => "copy_code",
        Button::Catalog => "catalog",
        Button::MultiProduct => "mpm",
    };
    sub_type == expected
}

fn filled(button: Button, parameter: Option<&Value>, what: &str) -> Result<(), ApiError> {
    let missing = || Err(ApiError::of(131_008).details(format!("{what} requires a parameter")));
    let (kind, text) = match button {
        Button::Fixed | Button::QuickReply | Button::Catalog => return Ok(()),
        Button::Url => ("text", "text"),
        Button::CopyCode => ("coupon_code", "coupon_code"),
        Button::MultiProduct => ("action", ""),
    };
    let Some(parameter) = parameter else {
        return missing();
    };
    if word(parameter, "type") != kind {
        return Err(ApiError::of(132_012).details(format!("{what} requires a parameter of type {kind}")));
    }
    if !text.is_empty() && word(parameter, text).is_empty() {
        return missing();
    }
    if button == Button::CopyCode && word(parameter, text).chars().count() > COUPON_LENGTH {
        return Err(ApiError::of(131_009).details(format!("{what}: coupon code exceeds {COUPON_LENGTH} characters")));
    }
    Ok(())
}

fn offer(content: &Content, given: &[Value], now_ms: u64) -> Result<(), ApiError> {
    if !content.limited_time_offer {
        return count("limited_time_offer", given.len(), 0);
    }
    let object = given.first().and_then(|parameter| parameter.get("limited_time_offer"));
    match object.and_then(|object| object.get("expiration_time_ms")).and_then(Value::as_u64) {
        None => Err(ApiError::of(131_008).details("limited_time_offer: expiration_time_ms is required")),
        Some(expires) if expires <= now_ms => {
            Err(ApiError::of(131_009).details("limited_time_offer: expiration_time_ms is in the past"))
        }
        Some(_) => Ok(()),
    }
}

fn carousel(content: &Content, components: &[Component<'_>], now_ms: u64) -> Result<(), ApiError> {
    let component = components.iter().find(|component| component.kind.eq_ignore_ascii_case("carousel"));
    let cards = component.map(|component| component.cards.as_slice()).unwrap_or_default();
    if cards.len() != content.cards.len() {
        let (given, expected) = (cards.len(), content.cards.len());
        return Err(ApiError::of(132_000)
            .details(format!("carousel: number of cards ({given}) does not match the expected number ({expected})")));
    }
    for (index, wanted) in content.cards.iter().enumerate() {
        let Some(card) = cards.iter().find(|card| card.card_index == index) else {
            return Err(ApiError::of(131_008).details(format!("carousel: card at index {index} is missing")));
        };
        check(wanted, &card.components, now_ms, &format!("card {index} "))?;
    }
    Ok(())
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        domain::Category,
        registry::file::{ParameterFormat, TemplateEntry},
        simulator::template::Template,
    };

    fn template(format: ParameterFormat, category: Category, components: Value) -> Template {
        Template::new(&TemplateEntry {
            account: "a".to_owned(),
            tenant: "default".to_owned(),
            name: "t".to_owned(),
            language: "en".to_owned(),
            provider_template_id: None,
            category,
            status: "APPROVED".to_owned(),
            parameter_format: format,
            components: serde_json::from_value(components).unwrap(),
        })
    }

    fn answer(template: &Template, components: &Value) -> (u32, String) {
        let text = components.to_string();
        let components: Vec<Component<'_>> = serde_json::from_str(&text).unwrap();
        match template.check(&components, 1_000) {
            Ok(()) => (0, String::new()),
            Err(error) => (error.code, error.details.unwrap_or_default()),
        }
    }

    #[test]
    fn positional_parameters_are_counted() {
        let template = template(
            ParameterFormat::Positional,
            Category::Utility,
            json!([{"type":"HEADER","format":"TEXT","text":"Hi {{1}}"},{"type":"BODY","text":"{{1}} and {{2}} and {{1}}"}]),
        );
        let text = |value: &str| json!({"type":"text","text":value});
        let header = json!({"type":"header","parameters":[text("Ann")]});
        let body = |values: Value| json!({"type":"body","parameters":values});
        assert_eq!(answer(&template, &json!([header, body(json!([text("a"), text("b")]))])).0, 0);
        let (code, details) = answer(&template, &json!([body(json!([text("a"), text("b")]))]));
        assert_eq!(code, 132_000);
        assert_eq!(
            details,
            "header: number of localizable_params (0) does not match the expected number of params (1)"
        );
        assert_eq!(answer(&template, &json!([header, body(json!([text("a")]))])).0, 132_000);
        assert_eq!(answer(&template, &json!([header, body(json!([text("a"), text("b\nc")]))])).0, 132_012);
        assert_eq!(answer(&template, &json!([header, body(json!([text("a"), text("")]))])).0, 131_008);
        assert_eq!(answer(&template, &json!([header, body(json!([text("a"), text(&"x".repeat(1025))]))])).0, 132_005);
        let named = json!({"type":"text","parameter_name":"x","text":"b"});
        assert_eq!(answer(&template, &json!([header, body(json!([text("a"), named]))])).0, 132_012);
    }

    #[test]
    fn named_parameters_go_by_name() {
        let content = json!([{"type":"BODY","text":"{{first}} {{last}}"}]);
        let template = template(ParameterFormat::Named, Category::Marketing, content);
        let named = |name: &str| json!({"type":"text","parameter_name":name,"text":"v"});
        let send = |one, two| json!([{"type":"body","parameters":[one, two]}]);
        assert_eq!(answer(&template, &send(named("last"), named("first"))).0, 0);
        assert_eq!(answer(&template, &send(named("last"), named("last"))).0, 132_012);
        assert_eq!(answer(&template, &send(named("last"), named("other"))).0, 132_012);
        assert_eq!(answer(&template, &send(named("last"), json!({"type":"text","text":"v"}))).0, 132_012);
    }

    #[test]
    fn buttons_take_what_their_kind_takes() {
        let template = template(
            ParameterFormat::Positional,
            Category::Marketing,
            json!([{"type":"BODY","text":"x"},{"type":"BUTTONS","buttons":[
                {"type":"URL","text":"go","url":"https://example.com/{{1}}"},{"type":"QUICK_REPLY","text":"stop"},
                {"type":"URL","text":"home","url":"https://example.com/"}]}]),
        );
        let url = |index: Value| json!({"type":"button","sub_type":"URL","index":index,"parameters":[{"type":"text","text":"a"}]});
        assert_eq!(answer(&template, &json!([url(json!("0"))])).0, 0);
        assert_eq!(answer(&template, &json!([url(json!(0))])).0, 0);
        assert_eq!(answer(&template, &json!([url(json!(0)), url(json!(2))])).0, 132_018);
        let (code, details) = answer(&template, &json!([]));
        assert_eq!((code, details.as_str()), (131_008, "buttons: Button at index 0 of type Url requires a parameter"));
    }

    #[test]
    fn an_authentication_template_takes_its_code_twice() {
        let content = json!([{"type":"BODY","add_security_recommendation":true},
            {"type":"BUTTONS","buttons":[{"type":"OTP","otp_type":"COPY_CODE"}]}]);
        let template = template(ParameterFormat::Positional, Category::Authentication, content);
        let body = json!({"type":"body","parameters":[{"type":"text","text":"1234"}]});
        let button = json!({"type":"button","sub_type":"url","index":"0","parameters":[{"type":"text","text":"1234"}]});
        assert_eq!(answer(&template, &json!([body, button])).0, 0);
        assert_eq!(answer(&template, &json!([body])).0, 131_008);
        assert_eq!(answer(&template, &json!([button])).0, 132_000);
    }

    #[test]
    fn media_offers_and_cards_are_checked() {
        let content = json!([{"type":"BODY","text":"x"},{"type":"LIMITED_TIME_OFFER"},{"type":"CAROUSEL","cards":[
            {"components":[{"type":"HEADER","format":"IMAGE"}]}]}]);
        let template = template(ParameterFormat::Positional, Category::Marketing, content);
        let offer = |at: u64| {
            json!({"type":"limited_time_offer","parameters":[
            {"type":"limited_time_offer","limited_time_offer":{"expiration_time_ms":at}}]})
        };
        let card = |header: Value| {
            json!({"type":"carousel","cards":[
            {"card_index":0,"components":[{"type":"header","parameters":[header]}]}]})
        };
        let image = json!({"type":"image","image":{"id":"1"}});
        assert_eq!(answer(&template, &json!([offer(2_000), card(image.clone())])).0, 0);
        assert_eq!(answer(&template, &json!([offer(1_000), card(image)])).0, 131_009);
        assert_eq!(answer(&template, &json!([offer(2_000)])).0, 132_000);
        let (code, details) = answer(&template, &json!([offer(2_000), card(json!({"type":"text","text":"x"}))]));
        assert_eq!(
            (code, details.as_str()),
            (132_012, "card 0 header: Format mismatch, expected IMAGE, received TEXT")
        );
    }
}
