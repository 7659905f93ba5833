//! What a send must fill in a template, read from the template's components, and whether a send does (whatsapp.md §1.3,
//! §4.4 and §7 step 8).

use serde::Deserialize;
use serde_json::Value;

use crate::{
    domain::Category,
    registry::file::{ParameterFormat, TemplateEntry},
    simulator::{errors::ApiError, parameters},
};

/// A registered template, ready to be checked against.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) name: String,
    pub(super) language: String,
    pub(super) category: Category,
    /// The provider's word in lower case.
    pub(super) status: String,
    pub(super) content: Content,
}

/// The parts of a template, or of one card of its carousel.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) header: Header,
    pub(super) body: Text,
    pub(super) buttons: Vec<Button>,
    pub(super) limited_time_offer: bool,
    pub(super) cards: Vec<Self>,
}

/// What a header asks for.
#[derive(Debug, Default)]
pub(super) enum Header {
    #[default]
    None,
    Text(Text),
    /// `image`, `video`, `document`, `location`, `product` or `gif`.
    Media(String),
}

/// A text with its variables.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// In order; the names of named ones, `1`, `2`, … of positional ones.
    pub(super) variables: Vec<String>,
    pub(super) named: bool,
    /// Characters apart from the variables.
    pub(super) length: usize,
}

/// What a button asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Button {
    /// Nothing may or must be given.
    Fixed,
    QuickReply,
    /// A URL that ends in a variable.
    Url,
    CopyCode,
    Catalog,
    MultiProduct,
}

impl Template {
    pub(super) fn new(entry: &TemplateEntry) -> Self {
        let named = entry.parameter_format == ParameterFormat::Named;
        let mut content = Content::default();
        for component in &entry.components {
            content.read(component, named, entry.category);
        }
        Self {
            name: entry.name.clone(),
            language: entry.language.clone(),
            category: entry.category,
            status: entry.status.to_lowercase(),
            content,
        }
    }

    /// Whether the template may be sent now and `components` fill it.
    pub(super) fn check(&self, components: &[Component<'_>], now_ms: u64) -> Result<(), ApiError> {
        match self.status.as_str() {
            "approved" => parameters::check(&self.content, components, now_ms, ""),
            "paused" => Err(ApiError::of(132_015).details("Template is paused due to low quality.")),
            "disabled" => Err(ApiError::of(132_016).details("Template is permanently disabled due to low quality.")),
            _ => Err(missing(&self.name, &self.language)),
        }
    }
}

/// The answer to a template that is not there in the language, or not approved.
pub(super) fn missing(name: &str, language: &str) -> ApiError {
    ApiError::of(132_001).details(format!("template name ({name}) does not exist in {language}"))
}

impl Content {
    fn read(&mut self, component: &Value, named: bool, category: Category) {
        let word = |key: &str| component.get(key).and_then(Value::as_str).unwrap_or_default();
        match word("type").to_uppercase().as_str() {
            "HEADER" => {
                self.header = match word("format").to_lowercase().as_str() {
                    "text" | "" => Header::Text(Text::new(word("text"), named)),
                    media => Header::Media(media.to_owned()),
                };
            }
            "BODY" => {
                self.body = Text::new(word("text"), named);
                // The text of an authentication template is preset; a send gives the code.
                if category == Category::Authentication && self.body.variables.is_empty() {
                    self.body = Text { variables: vec!["1".to_owned()], named: false, length: 40 };
                }
            }
            "BUTTONS" => {
                let buttons = component.get("buttons").and_then(Value::as_array);
                self.buttons = buttons.into_iter().flatten().map(Button::new).collect();
            }
            "LIMITED_TIME_OFFER" => self.limited_time_offer = true,
            "CAROUSEL" => {
                for card in component.get("cards").and_then(Value::as_array).into_iter().flatten() {
                    let mut content = Self::default();
                    for part in card.get("components").and_then(Value::as_array).into_iter().flatten() {
                        content.read(part, named, category);
                    }
                    self.cards.push(content);
                }
            }
            _ => {}
        }
    }
}

impl Text {
    fn new(text: &str, named: bool) -> Self {
        let mut variables: Vec<String> = Vec::new();
        let mut length = 0;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, behind)) = after.split_once("}}") else {
                break;
            };
            length += before.chars().count();
            let name = name.trim();
            if !variables.iter().any(|known| known == name) {
                variables.push(name.to_owned());
            }
            rest = behind;
        }
        Self { variables, named, length: length + rest.chars().count() }
    }
}

impl Button {
    fn new(button: &Value) -> Self {
        let word = |key: &str| button.get(key).and_then(Value::as_str).unwrap_or_default();
        match word("type").to_uppercase().as_str() {
            "QUICK_REPLY" => Self::QuickReply,
            "URL" if word("url").contains("{{") => Self::Url,
            // The code of a one-time-password button is given as for a URL.
            "OTP" => Self::Url,
            "COPY_CODE" => Self::CopyCode,
            "CATALOG" => Self::Catalog,
            "MPM" => Self::MultiProduct,
            _ => Self::Fixed,
        }
    }

    /// The provider's word in its complaints.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "Fixed",
            Self::QuickReply => "QuickReply",
            Self::Url => "Url",
            Self::CopyCode => "CopyCode",
            Self::Catalog => "Catalog",
            Self::MultiProduct => "Mpm",
        }
    }
}

/// A component of a send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Component<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub(super) sub_type: Option<std::borrow::Cow<'a, str>>,
    pub(super) index: Option<Value>,
    #[serde(default)]
    pub(super) parameters: Vec<Value>,
    #[serde(default, borrow)]
    pub(super) cards: Vec<Card<'a>>,
}

/// A card of a carousel in a send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card<'a> {
    pub(super) card_index: usize,
    #[serde(default, borrow)]
    pub(super) components: Vec<Component<'a>>,
}
