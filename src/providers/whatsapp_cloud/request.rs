//! The body of a template message.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::{
    domain::{
        address::Address,
        ids::Token,
        template::{ButtonAction, Filled, Header, MediaKind, Template},
    },
    providers::SendRequest,
};

#[derive(Serialize)]
struct Message<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    #[serde(flatten)]
    to: Recipient<'a>,
    r#type: &'static str,
    #[serde(serialize_with = "as_text")]
    biz_opaque_callback_data: &'a Token,
    template: TemplateBody<'a>,
}

/// Meta: a business-scoped user id goes into `recipient`; `to` would win if both were there.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Recipient<'a> {
    To(&'a str),
    Recipient(&'a str),
}

#[derive(Serialize)]
struct TemplateBody<'a> {
    name: &'a str,
    language: Language<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component<'a>>,
}

#[derive(Serialize)]
struct Language<'a> {
    code: &'a str,
}

#[derive(Serialize)]
struct Component<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    button: Option<ButtonPlace>,
    parameters: Vec<Parameter<'a>>,
}

#[derive(Serialize)]
struct ButtonPlace {
    sub_type: &'static str,
    #[serde(serialize_with = "as_text")]
    index: usize,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Parameter<'a> {
    Text {
        #[serde(skip_serializing_if = "Option::is_none")]
        parameter_name: Option<&'a str>,
        text: &'a str,
    },
    Payload {
        payload: &'a str,
    },
    CouponCode {
        coupon_code: &'a str,
    },
    Image {
        image: Media<'a>,
    },
    Video {
        video: Media<'a>,
    },
    Document {
        document: Media<'a>,
    },
}

/// Meta: either an uploaded file's id or a link, never both.
#[derive(Serialize)]
struct Media<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The JSON of one message.
pub(super) fn body(request: &SendRequest) -> Vec<u8> {
    let SendRequest { template, filled, to, token, .. } = request;
    let message = Message {
        messaging_product: "whatsapp",
        recipient_type: "individual",
        to: recipient(to),
        r#type: "template",
        biz_opaque_callback_data: token,
        template: TemplateBody {
            name: &template.name,
            language: Language { code: &template.language },
            components: components(template, filled),
        },
    };
    let mut body = Vec::with_capacity(768);
    // Writing words into memory cannot fail; if it did, the provider would refuse what was written so far.
    drop(serde_json::to_writer(&mut body, &message));
    body
}

fn recipient(to: &Address) -> Recipient<'_> {
    if to.is_phone() { Recipient::To(to.as_str()) } else { Recipient::Recipient(to.as_str()) }
}

/// Meta: a component without variables is left out, and all of them when the template has none.
fn components<'a>(template: &'a Template, filled: &'a Filled) -> Vec<Component<'a>> {
    let parts = &template.components;
    let mut components = Vec::new();
    if let Some(parameter) = parts.header.as_ref().and_then(|header| header_parameter(header, filled)) {
        components.push(Component { r#type: "header", button: None, parameters: vec![parameter] });
    }
    if !parts.body.slots.is_empty() {
        let parameters = template.slots.iter().enumerate().skip(parts.body.slots.start);
        let parameters = parameters
            .take(parts.body.slots.len())
            .map(|(at, slot)| Parameter::Text { parameter_name: template.parameter_name(slot), text: filled.get(at) });
        components.push(Component { r#type: "body", button: None, parameters: parameters.collect() });
    }
    for (index, button) in parts.buttons.iter().enumerate() {
        if let Some((sub_type, parameter)) = button_parameter(&button.action, filled) {
            let button = Some(ButtonPlace { sub_type, index });
            components.push(Component { r#type: "button", button, parameters: vec![parameter] });
        }
    }
    components
}

fn header_parameter<'a>(header: &'a Header, filled: &'a Filled) -> Option<Parameter<'a>> {
    match header {
        Header::Text { variable, .. } => variable.as_ref().map(|variable| Parameter::Text {
            parameter_name: variable.name.as_deref(),
            text: filled.get(variable.slot),
        }),
        Header::Media { kind, slot } => {
            let value = filled.get(*slot);
            let is_link = value.starts_with("https://");
            let mut media = Media { id: (!is_link).then_some(value), link: is_link.then_some(value), filename: None };
            Some(match kind {
                MediaKind::Image => Parameter::Image { image: media },
                MediaKind::Video => Parameter::Video { video: media },
                MediaKind::Document => {
                    media.filename = media.link.and_then(filename);
                    Parameter::Document { document: media }
                }
            })
        }
    }
}

/// The name a document is shown under: the last part of its link, when it reads as a file name.
fn filename(link: &str) -> Option<&str> {
    let path = link.split(['?', '#']).next()?;
    let (_, name) = path.strip_prefix("https://")?.rsplit_once('/')?;
    (name.contains('.') && !name.contains('%')).then_some(name)
}

/// The parameter of a button; none where it needs none.
fn button_parameter<'a>(action: &ButtonAction, filled: &'a Filled) -> Option<(&'static str, Parameter<'a>)> {
    let text = |slot: usize| Parameter::Text { parameter_name: None, text: filled.get(slot) };
    match action {
        ButtonAction::QuickReply { slot } => {
            let payload = filled.get(*slot);
            (!payload.is_empty()).then_some(("quick_reply", Parameter::Payload { payload }))
        }
        ButtonAction::Url { slot, .. } => slot.map(|slot| ("url", text(slot))),
        // Meta: the button that copies or fills in the password is addressed as `url` whatever it was created as.
        ButtonAction::OneTimePassword { slot } => Some(("url", text(*slot))),
        ButtonAction::CopyCode { slot } => {
            Some(("copy_code", Parameter::CouponCode { coupon_code: filled.get(*slot) }))
        }
        ButtonAction::Phone { .. } => None,
    }
}
