//! What both the product and the simulator are told: two accounts, their numbers, a template for each lane.

use serde_json::{Value, json};

/// A number with its share of the load.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    /// Its place, from 0.
    pub(crate) index: usize,
    /// Calls a second.
    pub(crate) limit: u32,
    /// Its account: 0 or 1.
    pub(crate) account: usize,
}

impl Number {
    pub(crate) fn business(&self) -> String {
        format!("+8131234{:04}", self.index + 1)
    }

    /// The provider's id.
    pub(crate) fn provider_id(&self) -> String {
        (1001 + self.index).to_string()
    }
}

/// Who publishes: the first one nearly everything.
pub(crate) const PRODUCERS: [&str; 2] = ["chaos", "shop"];
/// Names of the accounts.
pub(crate) const ACCOUNTS: [&str; 2] = ["north", "south"];
/// Their WABA ids.
pub(crate) const WABAS: [&str; 2] = ["2001", "2002"];

/// Numbers with these limits, each of an account.
pub(crate) fn numbers(limits: &[(u32, usize)]) -> Vec<Number> {
    limits.iter().enumerate().map(|(index, &(limit, account))| Number { index, limit, account }).collect()
}

/// The registry file.
pub(crate) fn registry(numbers: &[Number], base_url: &str) -> Value {
    let accounts = (0..2).map(|account| {
        json!({"name": ACCOUNTS[account], "portfolio": ACCOUNTS[account], "channel": "whatsapp", "provider": "whatsapp_cloud",
               "base_url": base_url, "api_version": "v25.0", "waba_id": WABAS[account],
               "credentials": {"access_token": {"env": format!("CHAOS_TOKEN_{account}")},
                               "app_secret": {"env": format!("CHAOS_SECRET_{account}")}, "verify_token": {"env": "CHAOS_VERIFY"}}})
    });
    let numbers = numbers.iter().map(|number| {
        json!({"account": ACCOUNTS[number.account], "business_number": number.business(),
               "provider_number_id": number.provider_id(), "limit": number.limit})
    });
    let templates = ACCOUNTS.iter().flat_map(|account| {
        let text = |name: &str, category: &str| {
            json!({"account": account, "name": name, "language": "ja", "category": category, "status": "approved",
                   "parameter_format": "named", "components": [{"type": "BODY", "text": "{{name}}様",
                   "example": {"body_text_named_params": [{"param_name": "name", "example": "佐藤"}]}}]})
        };
        let password = json!({"account": account, "name": "code", "language": "ja", "category": "authentication",
            "status": "approved", "parameter_format": "positional",
            "components": [{"type": "BODY", "text": "*{{1}}* is your code."},
                           {"type": "BUTTONS", "buttons": [{"type": "OTP", "otp_type": "COPY_CODE", "text": "Copy"}]}]});
        [text("offer", "marketing"), text("order", "utility"), password]
    });
    json!({"producers": PRODUCERS.map(|name| json!({"name": name})), "accounts": accounts.collect::<Vec<_>>(),
           "numbers": numbers.collect::<Vec<_>>(), "templates": templates.collect::<Vec<_>>()})
}
