//! Numbers and templates of a file, and the holds their statuses ask for.

use crate::{
    domain::{hold::HoldScope, ids::TenantId, template::Template},
    registry::{
        Problem,
        apply::{ApplyError, Applying, Became},
        file::{NumberEntry, TemplateEntry},
    },
    store::{
        accounts::{self, NumberFields, TemplateFields},
        holds_list,
    },
};

const TEMPLATE_CAUSE: &str = "template_status";
const NUMBER_CAUSE: &str = "number_status";

impl Applying<'_> {
    pub(super) async fn number(&mut self, at: &str, entry: &NumberEntry) -> Result<(), ApplyError> {
        let Some((tenant, account)) = self.owner(at, &entry.tenant, &entry.account).await? else {
            return Ok(());
        };
        let limit = entry.limit.map(|limit| i32::try_from(limit.get())).transpose();
        let Ok(limit_per_s) = limit else {
            self.refuse(Problem::new(
                format!("{at}/limit"),
                "too_large",
                "no provider allows so much: leave it out for unlimited",
            ));
            return Ok(());
        };
        let status = entry.status.trim().to_lowercase();
        let fields = NumberFields { provider_number_id: entry.provider_number_id.clone(), limit_per_s, status };
        let name = &entry.business_number;
        let found = accounts::find_number(self.connection, account, name).await?;
        let status_moved = found.as_ref().is_none_or(|(_, old)| old.status != fields.status);
        let (id, became) = match found {
            None => (accounts::insert_number(self.connection, account, name, &fields).await?, Became::Created),
            Some((id, old)) if old == fields => (id, Became::Unchanged),
            Some((id, _)) => {
                accounts::update_number(self.connection, id, &fields).await?;
                (id, Became::Updated)
            }
        };
        self.became("number", name, became);
        let good = matches!(fields.status.as_str(), "connected" | "flagged");
        let hold =
            StatusHold { tenant, scope: HoldScope::Number(id), cause: NUMBER_CAUSE, status: &fields.status, good };
        self.status_hold(&hold, status_moved).await
    }

    pub(super) async fn template(&mut self, at: &str, entry: &TemplateEntry) -> Result<(), ApplyError> {
        let Some((tenant, account)) = self.owner(at, &entry.tenant, &entry.account).await? else {
            return Ok(());
        };
        let components = serde_json::Value::Array(entry.components.clone());
        let parsed = Template::parse(&entry.name, &entry.language, entry.category, entry.parameter_format, &components);
        if let Err(problems) = parsed {
            for problem in problems {
                let pointer = format!("{at}/components{}", problem.pointer);
                self.refuse(Problem::new(pointer, "invalid_template", problem.reason));
            }
            return Ok(());
        }
        let fields = TemplateFields {
            provider_template_id: entry.provider_template_id.clone(),
            category: entry.category.to_string(),
            status: entry.status.trim().to_lowercase(),
            parameter_format: entry.parameter_format.to_string(),
            components,
        };
        let found = accounts::find_template(self.connection, account, &entry.name, &entry.language).await?;
        let status_moved = found.as_ref().is_none_or(|(_, old)| old.status != fields.status);
        let (id, became) = match found {
            None => {
                let (to, name, language) = (&mut *self.connection, &entry.name, &entry.language);
                let id = accounts::insert_template(to, account, name, language, &fields).await?;
                (id, Became::Created)
            }
            Some((id, old)) if old == fields => (id, Became::Unchanged),
            Some((id, _)) => {
                accounts::update_template(self.connection, id, &fields).await?;
                (id, Became::Updated)
            }
        };
        let name = format!("{} ({})", entry.name, entry.language);
        self.became("template", name, became);
        let good = fields.status == "approved";
        let hold =
            StatusHold { tenant, scope: HoldScope::Template(id), cause: TEMPLATE_CAUSE, status: &fields.status, good };
        self.status_hold(&hold, status_moved).await
    }

    /// A status that was told before opens nothing again: a person may have closed the hold on purpose.
    async fn status_hold(&mut self, hold: &StatusHold<'_>, moved: bool) -> Result<(), ApplyError> {
        if hold.good {
            let reason = format!("the status is {}", hold.status);
            holds_list::close_for_status(self.connection, &hold.scope, hold.cause, &reason).await?;
        } else if moved {
            let detail = format!("the provider's status is {}", hold.status);
            holds_list::open_for_status(self.connection, hold.tenant, &hold.scope, hold.cause, &detail).await?;
        }
        Ok(())
    }
}

struct StatusHold<'a> {
    tenant: TenantId,
    scope: HoldScope,
    cause: &'static str,
    status: &'a str,
    good: bool,
}
