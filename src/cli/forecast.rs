//! What would become of a job, for people.

use crate::{
    cli::{Common, output, read},
    domain::{
        money::Money,
        terms::{Cost, CountryCost},
    },
    intake::forecast::{Forecast, TierUse},
};

/// Shows what the API answered.
pub(super) fn show(common: &Common, value: &serde_json::Value) -> anyhow::Result<()> {
    if common.json {
        return output::json(value);
    }
    let forecast: Forecast = read(value)?;
    let left_out: Vec<String> =
        forecast.left_out.iter().map(|left| format!("{} {}", left.recipients, left.code)).collect();
    let rate = forecast.rate_per_s.map_or_else(|| "without a limit".to_owned(), |rate| format!("{rate:.1} a second"));
    let finish = forecast.finish.map_or_else(|| "as fast as the provider answers".to_owned(), output::time);
    output::fields(&[
        ("recipients", forecast.recipients.to_string()),
        ("left out", left_out.join(", ")),
        ("tier", forecast.tier.map(tier).unwrap_or_default()),
        ("cost", forecast.cost.as_ref().map(cost).unwrap_or_default()),
        ("number", format!("{}, {rate}", forecast.number_status)),
        ("template", forecast.template_status),
        ("beside", format!("{} messages", forecast.beside)),
        ("canary", forecast.canary.map(|first| format!("the first {first} go out alone")).unwrap_or_default()),
        ("start", output::time(forecast.start)),
        ("finish", finish),
        ("too late", if forecast.too_late > 0 { format!("{} would expire", forecast.too_late) } else { String::new() }),
    ])?;
    if let Some(cost) = &forecast.cost {
        let amount = |amount: Option<Money>| amount.map_or_else(|| "no rate".to_owned(), |amount| amount.to_string());
        let row = |c: &CountryCost| {
            let country = c.country.clone().unwrap_or_else(|| "none".to_owned());
            vec![country, c.recipients.to_string(), amount(c.each), amount(c.sum)]
        };
        let rows: Vec<_> = cost.by_country.iter().map(row).collect();
        output::table(&["COUNTRY", "RECIPIENTS", "EACH", cost.currency.as_str()], &rows)?;
    }
    for hold in forecast.holds {
        output::line(&format!("it would wait for hold {} on {} ({})", hold.id, hold.scope, hold.cause))?;
    }
    Ok(())
}

fn tier(tier: TierUse) -> String {
    format!("{} people in 24 h, of whom {} are used", tier.limit, tier.used)
}

fn cost(cost: &Cost) -> String {
    let unpriced = if cost.unpriced > 0 { format!(", and {} without a rate", cost.unpriced) } else { String::new() };
    format!("{} {}{unpriced}", cost.total, cost.currency)
}
