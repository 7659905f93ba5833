//! What recipients write and want: kept for the checklist, and obeyed.
//!
//! As with statuses, a callback may only speak for numbers and accounts of the app that signed it. All that a group of
//! callbacks says is done in one transaction, and may be done again: what was heard before changes nothing.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    domain::{
        address::Address,
        ids::{AccountId, NumberId},
        suppression::{Said, SuppressionSource, Wish, Words},
    },
    providers::{InboundCallback, PreferenceCallback},
    store::{
        Session, StoreError, commit,
        received::{self, NewInbound},
        registry::{Account, Snapshot},
        suppressions::{self, Cover, Resume, Stop},
    },
};

/// Longest text that is kept, in characters: as long as a provider lets anybody write.
const TEXT_CHARS: usize = 4096;
/// Longest id or word that is kept.
const WORD_CHARS: usize = 512;

/// What stood in a group of callbacks, by the account whose hook it came to.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) inbound: Vec<(AccountId, InboundCallback)>,
    pub(super) preferences: Vec<(AccountId, PreferenceCallback)>,
}

/// Something that somebody wants, in the order in which it was said.
#[derive(Debug)]
enum Wanted {
    Stop(Stop),
    Resume(Resume),
}

/// Keeps the messages and does what is wanted.
pub(super) async fn hear(
    session: &mut Session,
    snapshot: &Snapshot,
    words: &Words,
    heard: &Heard,
) -> Result<(), StoreError> {
    if heard.inbound.is_empty() && heard.preferences.is_empty() {
        return Ok(());
    }
    let (mut inbound, mut wanted) = (Vec::new(), Vec::new());
    for (hook, message) in &heard.inbound {
        let Some((account, number)) = addressee(snapshot, *hook, Some(&message.provider_number_id), None) else {
            continue;
        };
        let said =
            Said { text: message.text.as_deref(), payload: message.payload.as_deref(), is_button: message.is_button };
        let wish = words.wish(said);
        if let Some((wish, source)) = wish {
            let detail = [&message.text, &message.payload].into_iter().flatten().next().map(String::as_str);
            let people = std::iter::once(&message.sender).chain(&message.also);
            let about = About { account, source, detail: detail.unwrap_or_default(), at: message.at };
            wanted.extend(people.map(|person| about.wanted(wish, person)));
        }
        inbound.push(kept(account, number, message, wish.map(|(wish, _)| wish)));
    }
    for (hook, preference) in &heard.preferences {
        let named = (preference.provider_number_id.as_deref(), preference.provider_account_id.as_deref());
        let Some((account, _)) = addressee(snapshot, *hook, named.0, named.1) else {
            continue;
        };
        let source = SuppressionSource::Preference;
        let about = About { account, source, detail: "user_preferences", at: preference.at };
        wanted.extend(preference.people.iter().map(|person| about.wanted(preference.wish, person)));
    }
    wanted.sort_by_key(Wanted::at);
    let mut work = session.begin().await?;
    received::insert(&mut work, &inbound).await?;
    // A person may change its mind within a group: what was said first is done first.
    for same in wanted.chunk_by(|a, b| a.is_stop() == b.is_stop()) {
        let stops: Vec<Stop> = same.iter().filter_map(Wanted::stop).collect();
        let resumes: Vec<Resume> = same.iter().filter_map(Wanted::resume).collect();
        let added = suppressions::stop(&mut work, &stops).await?;
        let lifted = suppressions::resume(&mut work, &resumes).await?;
        metrics::counter!("suppressions_added_total").increment(u64::try_from(added).unwrap_or_default());
        metrics::counter!("suppressions_lifted_total").increment(lifted);
    }
    commit(work, "keep what recipients said").await
}

/// Whose the callback is: of the number or account that it names, else of the hook.
fn addressee<'a>(
    snapshot: &'a Snapshot,
    hook: AccountId,
    number: Option<&str>,
    account: Option<&str>,
) -> Option<(&'a Arc<Account>, Option<NumberId>)> {
    let hook = snapshot.accounts.get(&hook)?;
    let is_same_app = |other: &Account| other.app_digest == hook.app_digest;
    let named = |wanted: &str| {
        let mut found: Vec<_> =
            snapshot.numbers.values().filter(|n| *n.provider_number_id == *wanted && is_same_app(&n.account)).collect();
        // The hook's own account before another that has the number too.
        found.sort_by_key(|n| (n.account.id != hook.id, n.id));
        found.first().map(|n| (&n.account, Some(n.id)))
    };
    let by_account = |wanted: &str| {
        let mut found: Vec<_> = snapshot.accounts.values().filter(|a| a.waba_id == wanted && is_same_app(a)).collect();
        found.sort_by_key(|a| (a.id != hook.id, a.id));
        found.first().map(|a| (*a, None))
    };
    number.and_then(named).or_else(|| account.and_then(by_account)).or(Some((hook, None)))
}

/// The circumstances of a wish.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    account: &'a Account,
    source: SuppressionSource,
    detail: &'a str,
    at: DateTime<Utc>,
}

impl About<'_> {
    fn wanted(self, wish: Wish, person: &Address) -> Wanted {
        let Account { tenant, id: account, .. } = *self.account;
        let (recipient, detail) = (person.as_str().to_owned(), storable(self.detail, WORD_CHARS));
        match wish {
            Wish::Stop => {
                let (cover, source) = (Cover::marketing(tenant, account), self.source);
                Wanted::Stop(Stop { cover, recipient, source, detail, at: Some(self.at) })
            }
            Wish::Resume => {
                let is_told_by_provider = self.source == SuppressionSource::Preference;
                Wanted::Resume(Resume { tenant, account, recipient, is_told_by_provider, detail, at: self.at })
            }
        }
    }
}

impl Wanted {
    const fn at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Stop(stop) => stop.at,
            Self::Resume(resume) => Some(resume.at),
        }
    }

    const fn is_stop(&self) -> bool {
        matches!(self, Self::Stop(_))
    }

    fn stop(&self) -> Option<Stop> {
        if let Self::Stop(stop) = self { Some(stop.clone()) } else { None }
    }

    fn resume(&self) -> Option<Resume> {
        if let Self::Resume(resume) = self { Some(resume.clone()) } else { None }
    }
}

fn kept(account: &Account, number: Option<NumberId>, message: &InboundCallback, wish: Option<Wish>) -> NewInbound {
    let text = |text: Option<&str>| text.map(|text| storable(text, TEXT_CHARS));
    NewInbound {
        account: account.id,
        number,
        provider_message_id: storable(&message.provider_message_id, WORD_CHARS),
        sender: message.sender.as_str().to_owned(),
        kind: storable(&message.kind, WORD_CHARS),
        text: text(message.text.as_deref()),
        payload: text(message.payload.as_deref()),
        replies_to: message.replies_to.as_deref().map(|id| storable(id, WORD_CHARS)),
        wish,
        at: message.at,
    }
}

/// Postgres keeps no NUL in text, and nothing that people write may stop those after them.
fn storable(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
