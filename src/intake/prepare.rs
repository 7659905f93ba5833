//! From a body as it came to a verdict: send, cancel or refuse. No I/O, so that it can run beside the async threads.

use crate::{
    domain::{ids::TenantId, nearest::nearest},
    intake::{
        canonical,
        check::{self, Checked, Context, UNKNOWN_REFERENCE},
        head::Head,
        job::{CancelJob, JobError},
        read::{self, Read},
    },
    store::registry::Snapshot,
};

/// Who says that a job is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The holder of an API token.
    Token {
        /// The token's tenant.
        tenant: TenantId,
        /// The producer it is bound to, if any.
        producer: Option<String>,
    },
    /// Whoever may publish to the broker.
    Broker {
        /// The user, checked by the broker. Binding when a producer of that name is registered.
        user: Option<String>,
    },
}

/// A body with what was decided about it.
#[derive(Debug)]
pub struct Prepared {
    /// Whose job it is: for one that cannot be told, the tenant `default`.
    pub tenant: TenantId,
    /// When it can be read.
    pub producer: Option<String>,
    /// When it can be read.
    pub job_id: Option<String>,
    /// Digest of the canonical form.
    pub digest: [u8; 32],
    /// What is to be done.
    pub verdict: Verdict,
}

/// What is to be done with a job.
#[derive(Debug)]
pub enum Verdict {
    /// Send it.
    Send(Box<Checked>),
    /// Cancel an earlier one.
    Cancel(CancelJob),
    /// Answer what is wrong with it.
    Refuse(Vec<JobError>),
}

impl Prepared {
    /// Whether it was refused for something that a newer copy of the registry may know.
    pub fn lacks_reference(&self) -> bool {
        let Verdict::Refuse(errors) = &self.verdict else {
            return false;
        };
        errors.iter().any(|error| UNKNOWN_REFERENCE.contains(&error.code.as_ref()))
    }
}

/// Reads and checks a body.
pub fn prepare(context: &Context<'_>, claim: &Claim, body: &[u8]) -> Prepared {
    let head = Head::read(body);
    let refuse = |tenant, errors| Prepared {
        tenant,
        producer: head.producer.as_ref().map(ToString::to_string).or_else(|| bound_producer(context.snapshot, claim)),
        job_id: head.job_id.as_ref().map(ToString::to_string),
        digest: [0; 32],
        verdict: Verdict::Refuse(errors),
    };
    let default = default_tenant(context.snapshot, claim);
    let tenant = match whose(context.snapshot, claim, head.producer.as_deref()) {
        Ok(tenant) => tenant.unwrap_or(default),
        Err(error) => return refuse(default, vec![*error]),
    };
    if body.len() > context.settings.inline_bytes {
        let reason = format!(
            "has {} bytes, at most {} are taken: import the recipients and name the import as `audience`",
            body.len(),
            context.settings.inline_bytes
        );
        return refuse(tenant, vec![JobError::new("", "too_large", reason)]);
    }
    let value = match read::json(body) {
        Ok(value) => value,
        Err(error) => return refuse(tenant, vec![error]),
    };
    let read = match read::job(&value) {
        Ok(read) => read,
        Err(errors) => return refuse(tenant, errors),
    };
    let digest = canonical::digest(&value);
    let verdict = match read {
        Read::Cancel(cancel) => Verdict::Cancel(cancel),
        Read::Send { job, rows, refused } => match check::check(context, tenant, &job, &rows, &refused) {
            Ok(checked) => Verdict::Send(Box::new(checked)),
            Err(errors) => Verdict::Refuse(errors),
        },
    };
    Prepared { digest, verdict, ..refuse(tenant, Vec::new()) }
}

/// The tenant of the producer a body names, if it may name it. `None` when it names none.
fn whose(snapshot: &Snapshot, claim: &Claim, named: Option<&str>) -> Result<Option<TenantId>, Box<JobError>> {
    let bound = bound_producer(snapshot, claim);
    let Some(named) = named else {
        return Ok(bound.and_then(|name| snapshot.producers.get(&name).copied()));
    };
    if let Some(bound) = bound.filter(|bound| bound != named) {
        let reason = format!("is `{named}`, but whoever published the job is registered as `{bound}`");
        return Err(Box::new(JobError::new("/producer", "other_producer", reason)));
    }
    let owner = snapshot.producers.get(named).copied();
    match (owner, claim) {
        (Some(tenant), Claim::Token { tenant: own, .. }) if tenant != *own => {
            let reason = format!("`{named}` is not a producer of the token's tenant");
            Err(Box::new(JobError::new("/producer", "other_producer", reason)))
        }
        (Some(tenant), _) => Ok(Some(tenant)),
        (None, Claim::Token { tenant, producer: Some(_) }) => Ok(Some(*tenant)),
        (None, _) => {
            let mine = |tenant: &TenantId| match claim {
                Claim::Token { tenant: own, .. } => tenant == own,
                Claim::Broker { .. } => true,
            };
            let known = snapshot.producers.iter().filter(|(_, tenant)| mine(tenant)).map(|(name, _)| name.as_str());
            let reason = format!("no producer `{named}` is registered");
            Err(Box::new(JobError::new("/producer", "unknown_producer", reason).meant(nearest(named, known))))
        }
    }
}

/// The only producer that whoever published may name.
fn bound_producer(snapshot: &Snapshot, claim: &Claim) -> Option<String> {
    match claim {
        Claim::Token { producer, .. } => producer.clone(),
        // The broker's everyday user (`guest`) is nobody's name.
        Claim::Broker { user } => user.clone().filter(|user| snapshot.producers.contains_key(user)),
    }
}

fn default_tenant(snapshot: &Snapshot, claim: &Claim) -> TenantId {
    match claim {
        Claim::Token { tenant, .. } => *tenant,
        Claim::Broker { .. } => snapshot
            .tenants
            .iter()
            .filter(|(_, name)| *name == "default")
            .map(|(id, _)| *id)
            .min()
            // The first migration makes it, before anything else.
            .unwrap_or(TenantId(1)),
    }
}
