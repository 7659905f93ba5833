//! Going through the recipients of a job before it is given: who does not want it, who has which window, who lives where,
//! and who would be one too many.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::Utc;

use crate::{
    domain::{
        address::Address,
        lane::Lane,
        schedule::{Finder, Opening},
        terms::{AccountTerms, Tier},
    },
    intake::{check::Checked, freeze},
    store::{
        StoreError,
        checklist::load::{self, Among},
        session::Connection,
    },
};

/// What is found.
#[derive(Debug, Default)]
pub struct Reach {
    /// Recipients who take no such messages.
    pub suppressed: i64,
    /// Of a job with hours of the recipients, how many have which window.
    pub windows: Option<HashMap<Opening, u32>>,
    /// Recipients who have none while their messages would live.
    pub without: i64,
    /// Recipients in countries that the account leaves out.
    pub abroad: i64,
    /// Recipients beyond the limit of the portfolio.
    pub beyond: i64,
    /// People whom the portfolio has written to in the last 24 hours, up to its limit.
    pub written: usize,
    /// All others, by country; of none under the empty text. Only where there are rates.
    pub countries: BTreeMap<String, i64>,
}

/// Goes through the recipients of a job, if it has hours, its account has terms, or some of them are suppressed.
pub(super) async fn reach(connection: &mut Connection, checked: &Checked) -> Result<Option<Reach>, StoreError> {
    let terms = &checked.number.account.terms;
    let suppressed = suppressed(connection, checked).await?;
    if checked.hours.is_none() && *terms == AccountTerms::default() && suppressed.is_empty() {
        return Ok(None);
    }
    let send_at = checked.send_at.unwrap_or_else(Utc::now);
    let end = checked.expires_at.unwrap_or(send_at + checked.life);
    let finder = checked.hours.as_ref().map(|hours| Finder::new(hours, send_at, end));
    let limit = terms.tier.and_then(Tier::people);
    let written = match limit {
        Some(limit) => load::written_to(connection, &checked.number.account, limit).await?,
        None => HashSet::new(),
    };
    let reach = Reach { windows: finder.as_ref().map(|_| HashMap::new()), written: written.len(), ..Reach::default() };
    let room = limit.map(|limit| limit.saturating_sub(written.len()));
    let mut sight = Sight { suppressed, finder, terms, written, room, reach };
    match (&checked.group, checked.import) {
        (Some(_), _) => freeze::visit(connection, checked, |to, zone| sight.see(&to, zone.as_deref())).await?,
        (None, Some((import, _))) => {
            load::visit_import(connection, import, |to, zone| sight.see(&to, zone.as_deref())).await?;
        }
        (None, None) => checked.recipients.iter().for_each(|good| sight.see(&good.to, good.time_zone.as_deref())),
    }
    Ok(Some(sight.reach))
}

async fn suppressed(connection: &mut Connection, checked: &Checked) -> Result<HashSet<Address>, StoreError> {
    let (account, lane) = (&checked.number.account, Lane::from(checked.template.template.category));
    let these: Vec<&str> = checked.recipients.iter().map(|good| good.to.as_str()).collect();
    let among = match (&checked.group, checked.import) {
        (Some(group), _) => Among::Group(&group.name),
        (None, Some((import, _))) => Among::Import(import),
        (None, None) => Among::These(&these),
    };
    load::suppressed(connection, account, lane, among).await
}

struct Sight<'a> {
    suppressed: HashSet<Address>,
    finder: Option<Finder<'a>>,
    terms: &'a AccountTerms,
    /// Whoever is among them does not count again.
    written: HashSet<Address>,
    /// People whom the portfolio may write to beside them.
    room: Option<usize>,
    reach: Reach,
}

impl Sight<'_> {
    /// Each recipient is counted for the first reason only.
    fn see(&mut self, recipient: &Address, time_zone: Option<&str>) {
        let Self { suppressed, finder, terms, written, room, reach } = self;
        if suppressed.contains(recipient) {
            reach.suppressed += 1;
            return;
        }
        if let (Some(finder), Some(windows)) = (finder, &mut reach.windows) {
            let Some(opening) = finder.find(recipient, time_zone) else {
                reach.without += 1;
                return;
            };
            *windows.entry(opening).or_default() += 1;
        }
        let is_country_wanted = terms.rates.is_some() || !terms.countries.is_empty();
        let country = is_country_wanted.then(|| recipient.country()).flatten();
        if terms.leaves_out(country) {
            reach.abroad += 1;
            return;
        }
        if let Some(room) = room
            && !written.contains(recipient)
        {
            let Some(left) = room.checked_sub(1) else {
                reach.beyond += 1;
                return;
            };
            *room = left;
        }
        if terms.rates.is_some() {
            let country = country.unwrap_or_default();
            match reach.countries.get_mut(country) {
                Some(count) => *count += 1,
                None => drop(reach.countries.insert(country.to_owned(), 1)),
            }
        }
    }
}
