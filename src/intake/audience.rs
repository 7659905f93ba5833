//! Audiences that are kept here: whether a job may use the import it names.

use crate::{
    domain::template::Params,
    intake::{
        check::{Checked, slot_error},
        group::Job,
        job::JobError,
        prepare::Verdict,
    },
    store::{
        StoreError,
        imports::{self, Import},
        session::Connection,
    },
};

/// Looks up the imports that jobs name; a job whose import cannot be used is refused from here on.
pub(super) async fn resolve_imports(connection: &mut Connection, jobs: &mut [Job]) -> Result<(), StoreError> {
    for job in jobs {
        let Verdict::Send(checked) = &mut job.prepared.verdict else {
            continue;
        };
        // The copy of a group is of the batch's own, and was made of what fits.
        if checked.group.is_some() {
            continue;
        }
        let Some((id, count)) = &mut checked.import else {
            continue;
        };
        let found = imports::find(connection, checked.tenant, *id).await?;
        *count = found.as_ref().map_or(0, |import| import.good);
        let errors = import_errors(checked, found.as_ref());
        if errors.is_empty() {
            continue;
        }
        job.prepared.verdict = Verdict::Refuse(errors);
    }
    Ok(())
}

fn import_errors(checked: &Checked, found: Option<&Import>) -> Vec<JobError> {
    let refuse = |code, reason: String| vec![JobError::new("/audience/import", code, reason)];
    let Some(import) = found else {
        return refuse("unknown_import", "there is no such import: `imports list` shows those there are".to_owned());
    };
    if import.account != checked.number.account.id || import.template != checked.template.id {
        let (name, language) = (&checked.job.template.name, &checked.job.template.language);
        let reason = format!("the import was not made for the template `{name}` in {language} of this account");
        return refuse("wrong_import", reason);
    }
    if import.state != "ready" {
        return refuse("import_not_ready", format!("the import is {}, not ready", import.state));
    }
    let Some(sample) = &import.sample else {
        return refuse("no_good_recipient", "no row of the import can be sent to".to_owned());
    };
    // What has no column in the file must come from the job; all rows are alike in that.
    let sample: Params = serde_json::from_value(sample.clone()).unwrap_or_default();
    let problems = checked.template.template.fill(&checked.job.params, &sample).err().unwrap_or_default();
    problems.into_iter().map(|problem| slot_error(problem, "/params")).collect()
}
