//! Templates: what a send must fill, checked before anything is accepted.
//!
//! A template is read once from the provider's own JSON ([`Template::parse`]) and lists its [`Slot`]s under flat
//! names. [`Template::fill`] puts the values of one recipient into them or says, per slot, what is wrong: a job that
//! passes it is one the provider has no reason of form to refuse.

mod buttons;
mod check;
mod parse;

use std::{collections::BTreeMap, ops::Range};

pub use check::SlotProblem;
pub use parse::TemplateProblem;

use crate::domain::{Category, named};

/// Values by slot name, as a job, a row of a file or a default carries them.
pub type Params = BTreeMap<String, String>;

named! {
    /// How the variables of a template are written.
    #[derive(Default)]
    pub enum ParameterFormat {
        /// `{{1}}`, `{{2}}` …, in order.
        #[default]
        Positional = "positional",
        /// `{{customer_name}}`.
        Named = "named",
    }
}

named! {
    /// What a slot takes.
    pub enum SlotKind {
        /// One line of text.
        Text = "text",
        /// The provider's id of an uploaded file, or an https link.
        Media = "media",
        /// The end of a button's address.
        UrlSuffix = "url_suffix",
        /// What comes back when a quick reply is tapped.
        Payload = "payload",
        /// A one-time password.
        OneTimePassword = "one_time_password",
        /// A coupon code, copied with one tap.
        Coupon = "coupon",
    }
}

named! {
    /// What a media header shows.
    pub enum MediaKind {
        /// A picture.
        Image = "image",
        /// A film.
        Video = "video",
        /// A file, usually PDF.
        Document = "document",
    }
}

/// One thing a send must or may fill.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct Slot {
    /// Its flat name, for example `body.1`, `body.name`, `header.media`, `button1.url`.
    pub name: String,
    /// What it takes.
    pub kind: SlotKind,
    /// The longest value, in characters.
    pub max_chars: usize,
    /// Whether a send without it is refused.
    pub required: bool,
    /// The example given to the provider's review.
    pub example: Option<String>,
}

/// A registered template, read and understood.
///
/// ```
/// use campaign_dispatch::domain::{Category, template::{ParameterFormat, Params, Template}};
/// let components = serde_json::json!([{"type": "BODY", "text": "Hello {{name}}, your parcel is here."}]);
/// let template =
///     Template::parse("parcel", "en_US", Category::Utility, ParameterFormat::Named, &components).unwrap();
/// let own = Params::from([("name".to_owned(), "Ann".to_owned())]);
/// assert_eq!(template.fill(&Params::new(), &own).unwrap().get(0), "Ann");
/// let problems = template.fill(&Params::new(), &Params::new()).unwrap_err();
/// assert_eq!((problems[0].slot.as_str(), problems[0].code), ("body.name", "missing_slot"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The provider's name for it.
    pub name: String,
    /// Its language as the provider writes it, for example `ja` or `en_US`.
    pub language: String,
    /// Its category; decides the lane.
    pub category: Category,
    /// How its variables are written.
    pub parameter_format: ParameterFormat,
    /// Its parts.
    pub components: Components,
    /// What a send fills, in the order header, body, buttons; [`Filled`] follows the same order.
    pub slots: Vec<Slot>,
}

/// The parts of a template; a part with variables names its slots by their place in [`Template::slots`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Components {
    /// Above the text.
    pub header: Option<Header>,
    /// The text; empty where the provider writes it (authentication).
    pub body: Body,
    /// Below the text.
    pub footer: Option<String>,
    /// In order; the provider counts them from 0, slots from 1.
    pub buttons: Vec<Button>,
}

/// What stands above the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// A line with at most one variable.
    Text {
        /// With its variable as written.
        text: String,
        /// The variable: its slot, and its name when the format is named.
        variable: Option<Variable>,
    },
    /// A file given with every send.
    Media {
        /// What it shows.
        kind: MediaKind,
        /// The slot that takes it.
        slot: usize,
    },
}

/// A variable of a header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its slot.
    pub slot: usize,
    /// Its name, when the format is named.
    pub name: Option<String>,
}

/// The text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    /// With its variables as written.
    pub text: String,
    /// Its slots, in the order the provider expects them.
    pub slots: Range<usize>,
}

/// One button.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Button {
    /// What it says.
    pub label: String,
    /// What it does.
    pub action: ButtonAction,
}

/// What a button does, and the slot it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ButtonAction {
    /// Answers with a payload of ours, or with its label.
    QuickReply {
        /// The payload, optional.
        slot: usize,
    },
    /// Opens an address.
    Url {
        /// Up to its variable.
        url: String,
        /// The end of it.
        slot: Option<usize>,
    },
    /// Calls a number.
    Phone {
        /// As the template has it.
        number: String,
    },
    /// Copies a coupon code.
    CopyCode {
        /// The code.
        slot: usize,
    },
    /// Copies or fills in the one-time password of the body. Meta: the code must be given twice, for both.
    OneTimePassword {
        /// The body's slot.
        slot: usize,
    },
}

impl Template {
    /// Reads a template from the JSON it was created with (Meta: `components`), or says all that is wrong with it.
    pub fn parse(
        name: &str,
        language: &str,
        category: Category,
        parameter_format: ParameterFormat,
        components: &serde_json::Value,
    ) -> Result<Self, Vec<TemplateProblem>> {
        let (components, slots) = parse::components(category, parameter_format, components)?;
        let (name, language) = (name.to_owned(), language.to_owned());
        Ok(Self { name, language, category, parameter_format, components, slots })
    }

    /// The slot of this name; `name` alone means `body.name`.
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.get(self.position(name)?)
    }

    /// The shortest name of a slot that means it alone: those of the body need no `body.`
    pub fn short_name<'a>(&self, slot: &'a Slot) -> &'a str {
        let short = slot.name.strip_prefix("body.").unwrap_or(&slot.name);
        if self.slot(short) == Some(slot) { short } else { &slot.name }
    }

    /// Fills every slot for one recipient: `own` wins over `defaults`, and a blank value counts as not given.
    pub fn fill(&self, defaults: &Params, own: &Params) -> Result<Filled, Vec<SlotProblem>> {
        let mut problems = Vec::new();
        let mut values = vec![""; self.slots.len()];
        self.place(defaults, &mut values, &mut problems);
        self.place(own, &mut values, &mut problems);
        for (slot, value) in self.slots.iter().zip(&values) {
            problems.extend(check::value(slot, value).err());
        }
        if problems.is_empty() { Ok(Filled::new(&values)) } else { Err(problems) }
    }

    /// Checks values that are only part of a send, such as a job's defaults: their names and
    /// forms, not that all are there.
    pub fn check_names(&self, params: &Params) -> Vec<SlotProblem> {
        let mut problems = Vec::new();
        let mut values = vec![""; self.slots.len()];
        self.place(params, &mut values, &mut problems);
        let given = self.slots.iter().zip(&values).filter(|(_, value)| !value.is_empty());
        problems.extend(given.filter_map(|(slot, value)| check::value(slot, value).err()));
        problems
    }

    /// Puts each value at the place of its slot.
    fn place<'a>(&self, params: &'a Params, values: &mut [&'a str], problems: &mut Vec<SlotProblem>) {
        for (name, value) in params {
            let found = self.position(name).and_then(|at| Some((self.slots.get(at)?, values.get_mut(at)?)));
            let Some((slot, place)) = found else {
                problems.push(check::unknown(name, &self.slots));
                continue;
            };
            if slot.name != *name && params.contains_key(&slot.name) {
                problems.push(check::given_twice(slot, name));
            } else if !value.trim().is_empty() {
                *place = value;
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        // Authentication has one value, which people call by what it is.
        let name = match name {
            "code" | "body.code" if self.category == Category::Authentication => "body.1",
            _ => name,
        };
        let full = self.slots.iter().position(|slot| slot.name == name);
        full.or_else(|| self.slots.iter().position(|slot| slot.name.strip_prefix("body.") == Some(name)))
    }

    /// The name of a body variable as the provider writes it, when the format is named.
    pub fn parameter_name<'a>(&self, slot: &'a Slot) -> Option<&'a str> {
        match self.parameter_format {
            ParameterFormat::Positional => None,
            ParameterFormat::Named => slot.name.strip_prefix("body."),
        }
    }
}

/// A template's slots with the values of one recipient, in the order of [`Template::slots`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Filled {
    // All values in one buffer: made once per message, so it costs two allocations however many slots there are.
    text: String,
    ends: Vec<usize>,
}

impl Filled {
    fn new(values: &[&str]) -> Self {
        let mut text = String::with_capacity(values.iter().map(|value| value.len()).sum());
        let ends = values.iter().map(|value| {
            text.push_str(value);
            text.len()
        });
        let ends = ends.collect();
        Self { text, ends }
    }

    /// The value of a slot; empty when it was not given (only optional slots) or there is no such slot.
    pub fn get(&self, slot: usize) -> &str {
        let start = slot.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        self.ends.get(slot).and_then(|end| self.text.get(start..*end)).unwrap_or_default()
    }
}

/// Shows how much was filled, never what: values are personal.
impl std::fmt::Debug for Filled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filled").field("slots", &self.ends.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
