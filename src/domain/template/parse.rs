//! Reading a template from the provider's creation JSON.
//!
//! Only what a send needs to know is checked here, so that a template that the provider approved is never refused for a
//! rule of style; the words of the provider are read in any case.

use serde_json::Value;

use super::{Body, Components, Header, MediaKind, ParameterFormat, Slot, SlotKind, Variable};
use crate::domain::Category;

// Meta: the limits of a parameter's text (header 60; body 1 024 beside other components, 32 768 alone).
const HEADER_CHARS: usize = 60;
const BODY_CHARS: usize = 1024;
const LONE_BODY_CHARS: usize = 32_768;
/// Meta: at most 15 characters of one-time password.
const PASSWORD_CHARS: usize = 15;
/// Meta: at most 2 000 characters of address.
pub(super) const URL_CHARS: usize = 2000;

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct TemplateProblem {
    /// Where, as a JSON pointer into `components` (`/2/buttons/0/url`).
    pub pointer: String,
    /// What.
    pub reason: String,
}

/// Reads all components and lists their slots.
pub(super) fn components(
    category: Category,
    format: ParameterFormat,
    value: &Value,
) -> Result<(Components, Vec<Slot>), Vec<TemplateProblem>> {
    let Some(list) = value.as_array() else {
        return Err(vec![TemplateProblem { pointer: String::new(), reason: "components must be a list".to_owned() }]);
    };
    let mut reader =
        Reader { category, format, components: Components::default(), slots: Vec::new(), problems: Vec::new() };
    for (at, component) in by_place(list, &mut reader) {
        reader.component(component, &format!("/{at}"));
    }
    if !list.iter().any(|component| word(component, "type") == "BODY") {
        reader.problem(String::new(), "a template needs a BODY");
    }
    // Buttons were read last, so the body knows by now whether it stands alone.
    if reader.components.header.is_none() && reader.components.footer.is_none() && reader.components.buttons.is_empty()
    {
        let body = reader.components.body.slots.clone();
        for slot in reader.slots.get_mut(body).into_iter().flatten().filter(|slot| slot.kind == SlotKind::Text) {
            slot.max_chars = LONE_BODY_CHARS;
        }
    }
    if reader.problems.is_empty() { Ok((reader.components, reader.slots)) } else { Err(reader.problems) }
}

/// The components in the order slots are listed, each with its place in the JSON; a second one of a kind is a problem.
fn by_place<'a>(list: &'a [Value], reader: &mut Reader) -> Vec<(usize, &'a Value)> {
    const ORDER: [&str; 4] = ["HEADER", "BODY", "FOOTER", "BUTTONS"];
    let rank = |component: &Value| {
        let kind = word(component, "type");
        ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len())
    };
    let mut ranked: Vec<_> = list.iter().enumerate().map(|(at, component)| (rank(component), at, component)).collect();
    ranked.sort_by_key(|(rank, at, _)| (*rank, *at));
    for pair in ranked.windows(2) {
        if let [(one, ..), (other, at, _)] = pair
            && one == other
            && *one < ORDER.len()
        {
            reader.problem(format!("/{at}/type"), "a template has only one component of this type");
        }
    }
    ranked.into_iter().map(|(_, at, component)| (at, component)).collect()
}

/// A word of the provider's, in upper case; empty when it is not there.
pub(super) fn word(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_ascii_uppercase()
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a pointer, for examples, which the provider writes as a word or as a list of one.
pub(super) fn example(value: &Value, pointer: &str) -> Option<String> {
    let found = value.pointer(pointer)?;
    found.as_str().or_else(|| found.get(0)?.as_str()).map(ToOwned::to_owned)
}

pub(super) struct Reader {
    pub(super) category: Category,
    format: ParameterFormat,
    pub(super) components: Components,
    slots: Vec<Slot>,
    problems: Vec<TemplateProblem>,
}

impl Reader {
    pub(super) fn problem(&mut self, pointer: String, reason: impl Into<String>) {
        self.problems.push(TemplateProblem { pointer, reason: reason.into() });
    }

    pub(super) fn slot(
        &mut self,
        name: impl Into<String>,
        kind: SlotKind,
        max_chars: usize,
        example: Option<String>,
    ) -> usize {
        let required = kind != SlotKind::Payload;
        self.slots.push(Slot { name: name.into(), kind, max_chars, required, example });
        self.slots.len() - 1
    }

    pub(super) fn slot_is_taken(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot.name == name)
    }

    fn component(&mut self, component: &Value, at: &str) {
        match word(component, "type").as_str() {
            "HEADER" => self.header(component, at),
            "BODY" if self.category == Category::Authentication => self.preset_body(component, at),
            "BODY" => self.body(component, at),
            "FOOTER" => self.footer(component, at),
            "BUTTONS" => self.buttons(component, at),
            "" => self.problem(format!("{at}/type"), "is missing"),
            other => self.problem(format!("{at}/type"), format!("{other} is not supported yet")),
        }
    }

    fn header(&mut self, component: &Value, at: &str) {
        if self.category == Category::Authentication {
            return self.problem(at.to_owned(), "an authentication template has no header");
        }
        let media = match word(component, "format").as_str() {
            "TEXT" => return self.header_text(component, at),
            "IMAGE" => MediaKind::Image,
            "VIDEO" => MediaKind::Video,
            "DOCUMENT" => MediaKind::Document,
            "" => return self.problem(format!("{at}/format"), "is missing"),
            "LOCATION" => {
                let reason = "LOCATION is not supported yet: a send would have to give a place, not a text";
                return self.problem(format!("{at}/format"), reason);
            }
            other => {
                return self.problem(format!("{at}/format"), format!("{other} is not supported yet"));
            }
        };
        // An upload handle is no example of what a send gives; a link is.
        let example = example(component, "/example/header_handle").filter(|link| link.starts_with("https://"));
        let slot = self.slot("header.media", SlotKind::Media, URL_CHARS, example);
        self.components.header = Some(Header::Media { kind: media, slot });
    }

    fn header_text(&mut self, component: &Value, at: &str) {
        let text = text(component, "text").to_owned();
        let names = self.variables(&text, &format!("{at}/text"));
        if text.is_empty() || names.len() > 1 {
            return self.problem(format!("{at}/text"), "a text header has a text with at most one variable");
        }
        let variable = names.into_iter().next().map(|name| {
            let given = example(component, "/example/header_text")
                .or_else(|| example(component, "/example/header_text_named_params/0/example"));
            let slot = self.slot("header", SlotKind::Text, HEADER_CHARS, given);
            Variable { slot, name: (self.format == ParameterFormat::Named).then_some(name) }
        });
        self.components.header = Some(Header::Text { text, variable });
    }

    fn body(&mut self, component: &Value, at: &str) {
        let text = text(component, "text").to_owned();
        if text.is_empty() {
            return self.problem(format!("{at}/text"), "is missing or empty");
        }
        let start = self.slots.len();
        for (place, name) in self.variables(&text, &format!("{at}/text")).into_iter().enumerate() {
            let example = match self.format {
                ParameterFormat::Positional => example(component, &format!("/example/body_text/0/{place}"))
                    .or_else(|| example(component, &format!("/example/body_text/{place}"))),
                ParameterFormat::Named => named_example(component, &name),
            };
            self.slot(format!("body.{name}"), SlotKind::Text, BODY_CHARS, example);
        }
        self.components.body = Body { text, slots: start..self.slots.len() };
    }

    /// Meta: the text of an authentication template is preset and takes the code alone.
    fn preset_body(&mut self, component: &Value, at: &str) {
        let text = text(component, "text").to_owned();
        if self.variables(&text, &format!("{at}/text")).len() > 1 {
            return self.problem(format!("{at}/text"), "an authentication template takes a code only");
        }
        let start = self.slots.len();
        let example = example(component, "/example/body_text/0");
        self.slot("body.1", SlotKind::OneTimePassword, PASSWORD_CHARS, example);
        self.components.body = Body { text, slots: start..self.slots.len() };
    }

    fn footer(&mut self, component: &Value, at: &str) {
        let text = text(component, "text").to_owned();
        if text.contains("{{") {
            self.problem(format!("{at}/text"), "a footer has no variables");
        }
        self.components.footer = Some(text);
    }

    /// The names of a text's variables, each once, in the order the provider expects their values.
    fn variables(&mut self, text: &str, at: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for piece in text.split("{{").skip(1) {
            let Some((name, _)) = piece.split_once("}}") else {
                self.problem(at.to_owned(), "a variable is opened with {{ and not closed");
                continue;
            };
            let name = name.trim();
            if !fits(self.format, name) {
                let kind = match self.format {
                    ParameterFormat::Positional => "a number from 1",
                    ParameterFormat::Named => "lower-case letters, digits and _",
                };
                self.problem(at.to_owned(), format!("the variable {{{{{name}}}}} must be named by {kind}"));
            } else if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        if self.format == ParameterFormat::Positional {
            names.sort_by_key(|name| name.parse::<usize>().unwrap_or_default());
            if names.iter().zip(1..).any(|(name, place)| *name != place.to_string()) {
                self.problem(at.to_owned(), "variables must be numbered from {{1}} without a gap");
            }
        }
        names
    }
}

fn fits(format: ParameterFormat, name: &str) -> bool {
    match format {
        ParameterFormat::Positional => name.parse::<u16>().is_ok_and(|number| number >= 1),
        ParameterFormat::Named => {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !name.is_empty() && name.bytes().all(fits)
        }
    }
}

fn named_example(component: &Value, name: &str) -> Option<String> {
    let examples = component.pointer("/example/body_text_named_params")?.as_array()?;
    let found = examples.iter().find(|example| text(example, "param_name") == name)?;
    Some(text(found, "example").to_owned())
}
