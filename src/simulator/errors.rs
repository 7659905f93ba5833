//! The provider's error answers: which HTTP status and words belong to a code (whatsapp.md §1.5 and §4).

use std::fmt::Write as _;

use crate::simulator::wire;

/// Code, HTTP status in an answer, words. Deliberately its own list: a mistake in the adapter's table must show.
const TABLE: &[(u32, u16, &str)] = &[
    (0, 401, "AuthException"),
    (1, 400, "API Unknown"),
    (2, 503, "API Service"),
    (3, 500, "API Method"),
    (4, 400, "API Too Many Calls"),
    (10, 403, "Permission Denied"),
    (33, 400, "Parameter value is not valid"),
    (100, 400, "Invalid parameter"),
    (104, 401, "An access token is required to request this resource"),
    (190, 401, "Invalid OAuth access token"),
    (200, 403, "API Permission"),
    (368, 403, "Temporarily blocked for policies violations"),
    (80007, 400, "Rate limit issues"),
    (130_403, 400, "User blocked by the business"),
    (130_429, 400, "Rate limit hit"),
    (130_472, 400, "User's number is part of an experiment"),
    (130_497, 403, "Business account is restricted from messaging users in this country"),
    (131_000, 500, "Something went wrong"),
    (131_005, 403, "Access denied"),
    (131_008, 400, "Required parameter is missing"),
    (131_009, 400, "Parameter value is not valid"),
    (131_016, 500, "Service unavailable"),
    (131_021, 400, "Recipient cannot be sender"),
    (131_026, 400, "Message undeliverable"),
    (131_030, 400, "Recipient phone number not in allowed list"),
    (131_031, 403, "Account has been locked"),
    (131_037, 400, "WhatsApp provided number needs display name approval before message can be sent"),
    (131_042, 400, "Business eligibility payment issue"),
    (131_043, 400, "Message expired"),
    (131_045, 500, "Incorrect certificate"),
    (131_047, 400, "Re-engagement message"),
    (131_048, 400, "Spam rate limit hit"),
    (131_049, 400, "This message was not delivered to maintain healthy ecosystem engagement."),
    (131_050, 400, "User has stopped receiving marketing messages"),
    (131_051, 400, "Unsupported message type"),
    (131_053, 400, "Media upload error"),
    (131_055, 400, "Method not allowed"),
    (131_056, 400, "(Business Account, Consumer Account) pair rate limit hit"),
    (131_057, 500, "Account in maintenance mode"),
    (131_061, 400, "Max price template not allowed on this endpoint"),
    (131_062, 400, "Business-scoped user ids are not supported for this message"),
    (131_063, 400, "Marketing templates disabled for Cloud API"),
    (131_064, 400, "Business account limited for template misclassification"),
    (132_000, 400, "Number of parameters does not match the expected number of params"),
    (132_001, 404, "Template name does not exist in the translation"),
    (132_005, 400, "Translated text too long"),
    (132_007, 400, "Template format character policy violated"),
    (132_008, 400, "Parameter value is badly formed"),
    (132_012, 400, "Parameter format does not match format in the created template"),
    (132_015, 400, "Template is paused"),
    (132_016, 400, "Template is disabled"),
    (132_018, 400, "There is an issue with the parameters in your template"),
    (132_068, 400, "Flow is blocked"),
    (132_069, 400, "Flow is throttled"),
    (133_000, 500, "Incomplete deregistration"),
    (133_004, 503, "Server temporarily unavailable"),
    (133_006, 400, "Phone number re-verification needed"),
    (133_010, 400, "Phone number not registered"),
    (133_015, 400, "Please wait a few minutes before attempting to register this phone number"),
    (134_011, 400, "WhatsApp Payments terms of service has not been accepted"),
    (134_100, 400, "Only marketing messages supported"),
    (134_101, 400, "Your template is still syncing"),
    (134_102, 500, "Template unavailable for use"),
    (135_000, 400, "Generic user error"),
    (137_000, 400, "Identity key hash does not match"),
    (2_494_100, 500, "Account in maintenance mode"),
];

/// An error as an answer to a call, or as the reason of a failed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// The HTTP status it is answered with.
    pub(super) status: u16,
    /// The provider's code.
    pub(super) code: u32,
    /// The whole `message`.
    pub(super) message: String,
    /// `error_data.details`.
    pub(super) details: Option<String>,
    subcode: Option<u32>,
    kind: &'static str,
}

/// The words of a code, as they stand in a failed status.
pub(super) fn title(code: u32) -> &'static str {
    row(code).map_or("Unknown error", |row| row.2)
}

fn row(code: u32) -> Option<&'static (u32, u16, &'static str)> {
    TABLE.iter().find(|row| row.0 == code)
}

impl ApiError {
    /// The error of this code with its usual status; 400 when the code is not in the table.
    pub(super) fn of(code: u32) -> Self {
        let status = row(code).map_or(400, |row| row.1);
        let message = format!("(#{code}) {}", title(code));
        Self { status, code, message, details: None, subcode: None, kind: "OAuthException" }
    }

    /// The same with `error_data.details`.
    pub(super) fn details(self, details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..self }
    }

    /// The same with another HTTP status.
    pub(super) fn answered(self, status: Option<u16>) -> Self {
        Self { status: status.unwrap_or(self.status), ..self }
    }

    /// 100 in its own words, without `error_data`.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::of(100) }
    }

    /// 2500: the path is none of the provider's.
    pub(super) fn unknown_path(path: &str) -> Self {
        Self { code: 2500, ..Self::parameter(format!("Unknown path components: {path}")) }
    }

    /// 104 or 190: the words carry no code.
    pub(super) fn token(code: u32) -> Self {
        Self { message: title(code).to_owned(), ..Self::of(code) }
    }

    /// 100 with subcode 33: nobody may know whether the object exists.
    pub(super) fn unknown_object(verb: &str, id: &str) -> Self {
        let message = format!(
            "Unsupported {verb} request. Object with ID '{id}' does not exist, cannot be loaded due to missing \
             permissions, or does not support this operation. Please read the Graph API documentation at \
             https://developers.facebook.com/docs/graph-api"
        );
        Self { subcode: Some(33), kind: "GraphMethodException", ..Self::parameter(message) }
    }

    /// The body of the answer; `trace` makes `fbtrace_id` differ from call to call.
    pub(super) fn body(&self, trace: u64) -> String {
        let mut body = String::with_capacity(256);
        body.push_str(r#"{"error":{"message":"#);
        wire::push_text(&mut body, &self.message);
        // Writing to a String cannot fail.
        write!(body, r#","type":"{}","code":{}"#, self.kind, self.code).ok();
        if let Some(subcode) = self.subcode {
            write!(body, r#","error_subcode":{subcode}"#).ok();
        }
        if let Some(details) = &self.details {
            body.push_str(r#","error_data":{"messaging_product":"whatsapp","details":"#);
            wire::push_text(&mut body, details);
            body.push('}');
        }
        write!(body, r#","fbtrace_id":"A{trace:016x}"}}}}"#).ok();
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_providers_json() {
        let error = ApiError::of(130_429).details("Cloud API message throughput has been reached.");
        let body: serde_json::Value = serde_json::from_str(&error.body(1)).unwrap();
        assert_eq!(error.status, 400);
        assert_eq!(body["error"]["message"], "(#130429) Rate limit hit");
        assert_eq!(body["error"]["code"], 130_429);
        assert_eq!(body["error"]["error_data"]["messaging_product"], "whatsapp");
        let error = ApiError::unknown_object("post", "77");
        let body: serde_json::Value = serde_json::from_str(&error.body(2)).unwrap();
        assert_eq!(
            (&body["error"]["error_subcode"], &body["error"]["type"]),
            (&33.into(), &"GraphMethodException".into())
        );
        assert!(body["error"].get("error_data").is_none());
    }

    #[test]
    fn a_code_stands_in_the_table_once() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
