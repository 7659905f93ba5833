//! The request gate: what a call is checked for, in the order of whatsapp.md §7.
//!
//! 1 path, version, id · 2 bearer token · 3 body · 4 number state · 5 pair bucket, then number limit · 6 recipient ·
//! 7 customer service window · 8 template and its parameters · 9 endpoint and category. The first step that refuses
//! answers. Media (step 10) is not simulated.

use std::borrow::Cow;

use secrecy::ExposeSecret as _;
use serde::{Deserialize, de::IgnoredAny};
use subtle::ConstantTimeEq as _;

use crate::{
    domain::Category,
    simulator::{
        errors::ApiError,
        stalls::Clock,
        template::{self, Component},
        wire,
        world::{Account, Number},
    },
};

const OPAQUE_LENGTH: usize = 512;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Messages,
    MarketingMessages,
}

/// Step 1: `/vNN.N/{id}/messages` or `/marketing_messages`, and nothing else.
pub(super) fn route(path: &str) -> Result<(Endpoint, &str), ApiError> {
    let mut parts = path.trim_start_matches('/').split('/');
    let (version, id, edge, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let endpoint = match edge {
        Some("messages") => Endpoint::Messages,
        Some("marketing_messages") => Endpoint::MarketingMessages,
        _ => return Err(ApiError::unknown_path(path)),
    };
    match (version, id, rest) {
        (Some(version), Some(id), None) if is_version(version) && !id.is_empty() => Ok((endpoint, id)),
        _ => Err(ApiError::unknown_path(path)),
    }
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('v')
        .and_then(|number| number.split_once('.'))
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Step 2: the token must be the account's.
pub(super) fn token(account: &Account, authorization: Option<&str>) -> Result<(), ApiError> {
    let given = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().trim();
    if given.is_empty() {
        return Err(ApiError::token(104));
    }
    let expected = account.access_token.expose_secret();
    if bool::from(given.as_bytes().ct_eq(expected.as_bytes())) { Ok(()) } else { Err(ApiError::token(190)) }
}

/// A body as far as it is looked at. Every key that may stand there is named, so that any other is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    messaging_product: Option<Cow<'a, str>>,
    #[serde(borrow)]
    recipient_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    recipient: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    biz_opaque_callback_data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    template: Option<TemplateBody<'a>>,
    text: Option<IgnoredAny>,
    image: Option<IgnoredAny>,
    video: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    document: Option<IgnoredAny>,
    sticker: Option<IgnoredAny>,
    location: Option<IgnoredAny>,
    contacts: Option<IgnoredAny>,
    interactive: Option<IgnoredAny>,
    reaction: Option<IgnoredAny>,
    #[serde(rename = "context")]
    _context: Option<IgnoredAny>,
    #[serde(rename = "recipient_identity_key_hash")]
    _recipient_identity_key_hash: Option<IgnoredAny>,
    product_policy: Option<IgnoredAny>,
    message_activity_sharing: Option<IgnoredAny>,
    bid_spec: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    language: LanguageBody<'a>,
    #[serde(borrow, default)]
    components: Vec<Component<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LanguageBody<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

/// Who a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipient {
    /// A phone number: as given, and its digits.
    Phone { input: String, digits: String },
    /// A business-scoped user id.
    User(String),
}

impl Recipient {
    /// 64 bits that stand for the recipient: the number itself, or a digest of the id with the top bit set.
    pub(super) fn key(&self) -> u64 {
        match self {
            Self::Phone { digits, .. } => digits.parse().unwrap_or_else(|_| wire::digest(digits)),
            Self::User(id) => wire::digest(id) | 1 << 63,
        }
    }

    /// What suffixes are compared with.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Phone { digits, .. } => digits,
            Self::User(id) => id,
        }
    }
}

/// A call that nothing speaks against.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) recipient: Recipient,
    pub(super) template: String,
    pub(super) category: Category,
    pub(super) opaque: Option<String>,
}

/// Step 3: the body.
pub(super) fn read(endpoint: Endpoint, is_json: bool, bytes: &[u8]) -> Result<Body<'_>, ApiError> {
    // Without the content type the provider takes the body for a form and finds nothing in it.
    if !is_json {
        return Err(required("messaging_product"));
    }
    let body: Body<'_> = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if body.messaging_product.as_deref() != Some("whatsapp") {
        return Err(required("messaging_product"));
    }
    if !matches!(body.recipient_type.as_deref(), None | Some("individual")) {
        return Err(ApiError::parameter("(#100) Param recipient_type must be one of {INDIVIDUAL}"));
    }
    if body.to.is_none() && body.recipient.is_none() {
        return Err(required("to"));
    }
    let Some(kind) = body.kind.as_deref() else {
        return Err(required("type"));
    };
    if endpoint == Endpoint::MarketingMessages && kind != "template" {
        return Err(ApiError::parameter("(#100) Message must be a template message."));
    }
    if !has_content(&body, kind)? {
        return Err(required(kind));
    }
    if body.biz_opaque_callback_data.as_ref().is_some_and(|data| data.chars().count() > OPAQUE_LENGTH) {
        return Err(ApiError::parameter("(#100) Param biz_opaque_callback_data must be at most 512 characters long."));
    }
    let of_marketing = [("product_policy", &body.product_policy), ("bid_spec", &body.bid_spec)];
    for (key, value) in of_marketing.into_iter().chain([("message_activity_sharing", &body.message_activity_sharing)]) {
        if endpoint == Endpoint::Messages && value.is_some() {
            return Err(ApiError::parameter(format!("(#100) Unexpected key \"{key}\" on param.")));
        }
    }
    Ok(body)
}

fn has_content(body: &Body<'_>, kind: &str) -> Result<bool, ApiError> {
    let content = match kind {
        "template" => return Ok(body.template.is_some()),
        "text" => &body.text,
        "image" => &body.image,
        "video" => &body.video,
        "audio" => &body.audio,
        "document" => &body.document,
        "sticker" => &body.sticker,
        "location" => &body.location,
        "contacts" => &body.contacts,
        "interactive" => &body.interactive,
        "reaction" => &body.reaction,
        other => return Err(ApiError::of(131_051).details(format!("Message type {other} is not supported"))),
    };
    Ok(content.is_some())
}

fn required(name: &str) -> ApiError {
    ApiError::parameter(format!("The parameter {name} is required."))
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let quoted = |start: &str| text.strip_prefix(start).and_then(|rest| rest.split('`').next());
    if let Some(key) = quoted("unknown field `") {
        ApiError::parameter(format!("(#100) Unexpected key \"{key}\" on param."))
    } else if let Some(key) = quoted("missing field `") {
        required(key)
    } else {
        ApiError::parameter(format!("(#100) Invalid parameter: {text}"))
    }
}

/// Steps 4 to 9. `over_limit` is what [`Number::arrive`] said of this call.
pub(super) fn check(
    endpoint: Endpoint,
    number: &Number,
    body: &Body<'_>,
    at: u64,
    over_limit: bool,
) -> Result<Passed, ApiError> {
    let recipient = recipient(body)?;
    number.admit(recipient.key(), at, over_limit)?;
    if matches!(&recipient, Recipient::Phone { digits, .. } if *digits == number.digits) {
        return Err(ApiError::of(131_021).details("Recipient cannot be sender"));
    }
    let Some(sent) = &body.template else {
        return Err(ApiError::of(131_047).details(
            "Message failed to send because more than 24 hours have passed since the customer last replied.",
        ));
    };
    if !matches!(sent.language.policy.as_deref(), None | Some("deterministic")) {
        return Err(ApiError::parameter("(#100) Param template['language']['policy'] must be one of {DETERMINISTIC}"));
    }
    let Some(template) = number.account.template(&sent.name, &sent.language.code) else {
        return Err(template::missing(&sent.name, &sent.language.code));
    };
    template.check(&sent.components, Clock::unix_millis())?;
    if endpoint == Endpoint::MarketingMessages && template.category != Category::Marketing {
        return Err(ApiError::of(134_100).details("You're only able to send marketing messages on this API."));
    }
    if matches!(recipient, Recipient::User(_)) && template.category == Category::Authentication {
        return Err(ApiError::of(131_062));
    }
    let opaque = body.biz_opaque_callback_data.as_deref().map(str::to_owned);
    Ok(Passed { recipient, template: template.name.clone(), category: template.category, opaque })
}

/// `to` wins if both are given (whatsapp.md §1.1).
fn recipient(body: &Body<'_>) -> Result<Recipient, ApiError> {
    let bad = |details: &str| Err(ApiError::of(131_009).details(details));
    if let Some(to) = body.to.as_deref() {
        let digits: String = to.chars().filter(char::is_ascii_digit).collect();
        let is_written = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | ' ' | '(' | ')' | '.');
        if !(5..=15).contains(&digits.len()) || !to.chars().all(is_written) {
            return bad("Recipient phone number is not valid");
        }
        return Ok(Recipient::Phone { input: to.to_owned(), digits });
    }
    match body.recipient.as_deref() {
        Some(id) if id.as_bytes().get(2) == Some(&b'.') && id.len() <= 131 => Ok(Recipient::User(id.to_owned())),
        _ => bad("recipient is not a business-scoped user id"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_edges_of_a_version_exist() {
        assert_eq!(route("/v25.0/1001/messages"), Ok((Endpoint::Messages, "1001")));
        assert_eq!(route("/v25.0/1001/marketing_messages"), Ok((Endpoint::MarketingMessages, "1001")));
        for path in ["/", "/1001/messages", "/v25/1001/messages", "/v25.0//messages", "/v25.0/1/messages/2", "/v25.0/1"]
        {
            assert_eq!(route(path).map_err(|error| error.code), Err(2500), "{path}");
        }
    }

    fn refusal(endpoint: Endpoint, body: &str) -> String {
        read(endpoint, true, body.as_bytes()).map_or_else(|error| error.message, |_| "taken".to_owned())
    }

    #[test]
    fn a_body_is_read_strictly() {
        let template = r#""template":{"name":"a","language":{"code":"en"}}"#;
        let whole = format!(r#"{{"messaging_product":"whatsapp","to":"+1","type":"template",{template}}}"#);
        assert_eq!(refusal(Endpoint::Messages, &whole), "taken");
        let cases = [
            (whole.replace("whatsapp", "sms"), "The parameter messaging_product is required."),
            (whole.replace(r#""to":"+1","#, ""), "The parameter to is required."),
            (whole.replace(r#""type":"template","#, ""), "The parameter type is required."),
            (whole.replace(r#""name":"a","#, ""), "The parameter name is required."),
            (whole.replace("\"to\"", "\"tto\""), "(#100) Unexpected key \"tto\" on param."),
            (whole.replace("\"code\"", "\"code_\""), "(#100) Unexpected key \"code_\" on param."),
            (whole.replace("\"template\",", "\"text\","), "The parameter text is required."),
        ];
        for (body, message) in cases {
            assert_eq!(refusal(Endpoint::Messages, &body), message);
        }
        assert!(refusal(Endpoint::Messages, &whole.replace("\"+1\"", "1")).starts_with("(#100) Invalid parameter"));
        let policy = whole.replace(r#""to""#, r#""product_policy":"STRICT","to""#);
        assert_eq!(refusal(Endpoint::MarketingMessages, &policy), "taken");
        assert_eq!(refusal(Endpoint::Messages, &policy), "(#100) Unexpected key \"product_policy\" on param.");
        assert!(read(Endpoint::Messages, false, whole.as_bytes()).is_err());
    }
}
