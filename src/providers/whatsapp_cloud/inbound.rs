//! What users write and want, as Meta tells it.

use std::borrow::Cow;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    domain::{Channel, address::Address, suppression::Wish},
    providers::{InboundCallback, PreferenceCallback},
};

#[derive(Deserialize)]
struct Message<'a> {
    from: Option<String>,
    from_user_id: Option<String>,
    id: String,
    #[serde(deserialize_with = "super::whole_number")]
    timestamp: i64,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    context: Option<Context>,
    text: Option<Text>,
    button: Option<Button>,
    interactive: Option<Interactive>,
    image: Option<Media>,
    video: Option<Media>,
    document: Option<Media>,
}

#[derive(Deserialize)]
struct Context {
    id: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    body: String,
}

/// A tap on a quick reply of a template.
#[derive(Deserialize)]
struct Button {
    payload: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Interactive {
    #[serde(rename = "type")]
    kind: String,
    button_reply: Option<Reply>,
    list_reply: Option<Reply>,
}

#[derive(Deserialize)]
struct Reply {
    id: Option<String>,
    title: Option<String>,
}

#[derive(Deserialize)]
struct Media {
    caption: Option<String>,
}

/// One element of `messages`; none when it cannot be read.
pub(super) fn message(number: &str, raw: &RawValue) -> Option<InboundCallback> {
    let message: Message<'_> = serde_json::from_str(raw.get()).ok()?;
    let mut people = people(message.from.as_deref(), message.from_user_id.as_deref()).into_iter();
    let sender = people.next()?;
    let media = [message.image, message.video, message.document].into_iter().flatten().find_map(|media| media.caption);
    let (mut kind, mut payload, mut is_button) = (message.kind.into_owned(), None, false);
    let text = if let Some(button) = message.button {
        (payload, is_button) = (button.payload, true);
        button.text
    } else if let Some(interactive) = message.interactive {
        is_button = interactive.button_reply.is_some();
        kind = interactive.kind;
        interactive.button_reply.or(interactive.list_reply).and_then(|reply| {
            payload = reply.id;
            reply.title
        })
    } else {
        message.text.map(|text| text.body).or(media)
    };
    Some(InboundCallback {
        provider_message_id: message.id,
        provider_number_id: number.to_owned(),
        sender,
        also: people.collect(),
        kind,
        text,
        payload,
        is_button,
        replies_to: message.context.and_then(|context| context.id),
        at: DateTime::from_timestamp(message.timestamp, 0)?,
    })
}

#[derive(Deserialize)]
struct Preferences<'a> {
    metadata: Option<super::callbacks::Metadata>,
    #[serde(borrow)]
    user_preferences: Vec<Preference<'a>>,
}

#[derive(Deserialize)]
struct Preference<'a> {
    wa_id: Option<String>,
    user_id: Option<String>,
    #[serde(borrow)]
    category: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(deserialize_with = "super::whole_number")]
    timestamp: i64,
}

/// The value of the field `user_preferences`; none when something in it is not known to this version, so that it is kept as a whole.
pub(super) fn preferences(account: Option<&str>, raw: &RawValue) -> Option<Vec<PreferenceCallback>> {
    let value: Preferences<'_> = serde_json::from_str(raw.get()).ok()?;
    let number = value.metadata.map(|metadata| metadata.phone_number_id);
    let read = |preference: Preference<'_>| {
        let wish = preference.value.parse::<Wish>().ok()?;
        let people = people(preference.wa_id.as_deref(), preference.user_id.as_deref());
        let at = DateTime::from_timestamp(preference.timestamp, 0)?;
        (preference.category == "marketing_messages" && !people.is_empty()).then(|| PreferenceCallback {
            provider_account_id: account.map(str::to_owned),
            provider_number_id: number.clone(),
            people,
            wish,
            at,
        })
    };
    value.user_preferences.into_iter().map(read).collect()
}

/// The addresses of a user: the number, which stands without its plus, as it may be written otherwise, and the id that is
/// scoped to the business.
fn people(number: Option<&str>, user_id: Option<&str>) -> Vec<Address> {
    let digits = number.filter(|text| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()));
    let phone = digits.map(|digits| {
        let text = format!("+{digits}");
        // One that no network would assign is shown as it came.
        Address::parse(Channel::Whatsapp, &text).unwrap_or_else(|_| Address::from_store(text))
    });
    let scoped = user_id.and_then(|id| Address::parse(Channel::Whatsapp, id).ok());
    let twin = digits.and_then(twin).map(Address::from_store);
    phone.into_iter().chain(twin).chain(scoped).collect()
}

/// Mobile numbers of Brazil, Mexico and Argentina have a digit more or less in WhatsApp than where people write them down:
/// an opt-out counts for both.
fn twin(digits: &str) -> Option<String> {
    let (brazil, mexico, argentina) = (digits.strip_prefix("55"), digits.strip_prefix("52"), digits.strip_prefix("54"));
    if let Some((area, rest)) = brazil.and_then(|rest| rest.split_at_checked(2)) {
        return match (rest.len(), rest.strip_prefix('9')) {
            (9, Some(short)) => Some(format!("+55{area}{short}")),
            (8, _) => Some(format!("+55{area}9{rest}")),
            _ => None,
        };
    }
    let (code, mark, rest) = mexico.map(|rest| ("52", '1', rest)).or(argentina.map(|rest| ("54", '9', rest)))?;
    match (rest.len(), rest.strip_prefix(mark)) {
        (11, Some(short)) => Some(format!("+{code}{short}")),
        (10, _) => Some(format!("+{code}{mark}{rest}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone as _, Utc};

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn each_kind_of_message_says_what_it_says() {
        let head = r#""from":"819012345678","from_user_id":"JP.1349","id":"wamid.IN","timestamp":"1750030073""#;
        let table = [
            (r#""type":"text","text":{"body":"STOP"}"#, ("text", Some("STOP"), None, false)),
            (
                r#""type":"button","button":{"payload":"OPTOUT","text":"Stop"}"#,
                ("button", Some("Stop"), Some("OPTOUT"), true),
            ),
            (
                r#""type":"interactive","interactive":{"type":"button_reply","button_reply":{"id":"1","title":"Yes"}}"#,
                ("button_reply", Some("Yes"), Some("1"), true),
            ),
            (
                r#""type":"interactive","interactive":{"type":"list_reply","list_reply":{"id":"2","title":"Red","description":"d"}}"#,
                ("list_reply", Some("Red"), Some("2"), false),
            ),
            (
                r#""type":"interactive","interactive":{"type":"nfm_reply","nfm_reply":{}}"#,
                ("nfm_reply", None, None, false),
            ),
            (r#""type":"image","image":{"id":"9","caption":"STOP"}"#, ("image", Some("STOP"), None, false)),
            (r#""type":"unsupported","errors":[{"code":131051}]"#, ("unsupported", None, None, false)),
        ];
        for (tail, (kind, text, payload, is_button)) in table {
            let found = message("1001", &raw(&format!(r#"{{{head},"context":{{"id":"wamid.OUT"}},{tail}}}"#))).unwrap();
            let told = (found.kind.as_str(), found.text.as_deref(), found.payload.as_deref(), found.is_button);
            assert_eq!(told, (kind, text, payload, is_button), "{tail}");
            let also: Vec<_> = found.also.iter().map(Address::as_str).collect();
            assert_eq!((found.sender.as_str(), also), ("+819012345678", vec!["JP.1349"]));
            assert_eq!(found.replies_to.as_deref(), Some("wamid.OUT"));
            assert_eq!(found.at, Utc.timestamp_opt(1_750_030_073, 0).unwrap());
        }
        for odd in [
            r#"{"id":"x","timestamp":"1","type":"text"}"#,
            r#"{"from":"12ab","id":"x","timestamp":"1","type":"text"}"#,
            r#"{"from":"819012345678","id":"x","type":"text"}"#,
        ] {
            assert_eq!(message("1001", &raw(odd)), None, "{odd}");
        }
    }

    #[test]
    fn a_number_that_is_written_in_two_ways_is_one_person() {
        let table = [
            ("553187654321", Some("+5531987654321")),
            ("5531987654321", Some("+553187654321")),
            ("5215512345678", Some("+525512345678")),
            ("525512345678", Some("+5215512345678")),
            ("5491123456789", Some("+541123456789")),
            ("541123456789", Some("+5491123456789")),
            ("819012345678", None),
            ("55", None),
        ];
        for (digits, expected) in table {
            assert_eq!(twin(digits).as_deref(), expected, "{digits}");
        }
        let people = people(Some("553187654321"), Some("BR.1"));
        let people: Vec<_> = people.iter().map(Address::as_str).collect();
        assert_eq!(people, ["+553187654321", "+5531987654321", "BR.1"]);
    }

    #[test]
    fn preferences_are_wishes_of_people() {
        let told = |category: &str, value: &str| {
            let text = format!(
                r#"{{"contacts":[],"user_preferences":[{{"wa_id":"819012345678","user_id":"JP.1349","detail":"d",
                    "category":"{category}","value":"{value}","timestamp":1731705721}}]}}"#
            );
            preferences(Some("2001"), &raw(&text))
        };
        for (value, wish) in [("stop", Wish::Stop), ("resume", Wish::Resume)] {
            let found = told("marketing_messages", value).unwrap();
            let people: Vec<_> = found[0].people.iter().map(Address::as_str).collect();
            assert_eq!((found[0].wish, people), (wish, vec!["+819012345678", "JP.1349"]));
            assert_eq!(found[0].at, Utc.timestamp_opt(1_731_705_721, 0).unwrap());
            assert_eq!(found[0].provider_account_id.as_deref(), Some("2001"));
        }
        // What this version does not know is kept as it came.
        assert_eq!(told("marketing_messages", "pause"), None);
        assert_eq!(told("calls", "stop"), None);
    }
}
