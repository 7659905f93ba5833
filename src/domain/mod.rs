//! What the product decides, as pure functions and plain types: no I/O, no async, no clock of its own.
//!
//! Stages fetch, ask this module, and store what it answered.

pub mod act;
pub mod address;
pub mod alarm;
pub mod alive;
pub mod campaign;
pub mod canary;
pub mod cell;
pub mod event;
pub mod failure;
pub mod forecast;
pub mod health;
pub mod hold;
pub mod ids;
pub mod lane;
pub mod message;
pub mod money;
pub mod nearest;
pub mod number_list;
pub mod pacing;
pub mod rate;
pub mod resend;
pub mod retry;
pub mod schedule;
pub mod spreadsheet;
pub mod suppression;
pub mod template;
pub mod terms;
pub mod uncertain;
pub mod wake;
pub mod why;
pub mod zones;

/// Derives `Display`, `FromStr`, `as_str` and `ALL` for a flat enum whose variants have one stable name each.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
            schemars::JsonSchema, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        $vis enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every variant, in rank order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in the database, in JSON and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::domain::UnknownName { given: text.to_owned(), known: &[$($text,)+] }),
                }
            }
        }
    };
}
pub(crate) use named;

/// A word that is not one of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not one of {}", known.join(", "))]
pub struct UnknownName {
    /// What was given.
    pub given: String,
    /// What would be understood.
    pub known: &'static [&'static str],
}

named! {
    /// What a recipient is reached through.
    pub enum Channel {
        /// WhatsApp.
        Whatsapp = "whatsapp",
        /// Viber.
        Viber = "viber",
        /// Facebook Messenger.
        Messenger = "messenger",
        /// Instagram direct messages.
        Instagram = "instagram",
        /// E-mail.
        Email = "email",
    }
}

named! {
    /// A template's category, as the provider reviews it. It alone decides the [`lane::Lane`].
    pub enum Category {
        /// One-time passwords.
        Authentication = "authentication",
        /// Orders, appointments, accounts.
        Utility = "utility",
        /// Everything else.
        Marketing = "marketing",
    }
}
