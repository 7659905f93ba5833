//! The contract of the API, made from the handlers.

use utoipa::{
    Modify, OpenApi as _,
    openapi::{
        OpenApi,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::http::{
    audiences, campaigns, changes, control, exports, forecast, imports, jobs, lists, operators, status, suppressions,
    uncertain,
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "campaign-dispatch",
        description = "Send jobs in, checklists out. Every refusal has the body `Errors`; 401 without a token, 403 without the scope, 429 with Retry-After above the token's rate."
    ),
    paths(
        status::status, jobs::submit, imports::create, imports::list, imports::find, imports::rejected_rows, imports::changed_cells,
        imports::report, imports::empty_form,
        lists::batches, lists::batch, lists::batch_rejected, lists::messages, lists::message, lists::failures,
        exports::messages, exports::batches, exports::received, exports::report, lists::rejected_jobs, lists::holds, lists::hold, uncertain::list, uncertain::resolve, uncertain::recover,
        campaigns::apply, campaigns::list, campaigns::show, campaigns::next, campaigns::occurrences, campaigns::run,
        campaigns::test, campaigns::pause, campaigns::resume, campaigns::archive, campaigns::cancel,
        audiences::create, audiences::list, audiences::show, audiences::add, audiences::fill, audiences::numbers,
        audiences::remove, audiences::empty, audiences::delete, audiences::export::export,
        forecast::of_job, forecast::of_campaign, suppressions::add, suppressions::import, suppressions::list,
        suppressions::remove, suppressions::received, control::pause, control::resume, control::cancel_batch, control::cancel_message,
        operators::why_message, operators::why_batch, operators::resend, operators::acknowledge, operators::audit,
        changes::open_hold, changes::close_hold, changes::nudge_upkeep, changes::put_registry, changes::accounts,
        changes::account, changes::numbers, changes::templates, changes::template, changes::create_token,
        changes::list_tokens, changes::revoke_token,
    ),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
        openapi.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// The document served at `/openapi.json`.
pub fn document() -> OpenApi {
    Document::openapi()
}
