//! Members of audience groups: checked one by one, the good ones written, the others told with their reasons.
//!
//! What is written is written again without harm: a file whose sending broke off is sent once more from its beginning.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use futures_util::Stream;
use phonenumber::country;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::{
    domain::{
        Channel,
        address::{Address, AddressError},
        template::Params,
        zones,
    },
    intake::{
        check::address_code,
        fields::{Reader, is_good_text, storable},
        import::{RowRejection, feed},
        job::{JobError, Recipient},
        member_file, number_file,
        sheet::Decoded,
    },
    store::{
        Store, StoreError,
        audiences::{self, AudienceRow, NewMember, Written},
        session::commit,
    },
};

/// Members of one request in JSON.
pub const MEMBERS_MAX: usize = 1000;
/// Members per transaction.
pub(super) const CHUNK: usize = 5000;
/// Faults that the report of a file shows; of a request in JSON all are told.
const FAULTS_SHOWN: usize = 100;
/// Longest `ref`, in characters.
const REF_CHARS: usize = 256;
/// Values of one member, how long their names are and how long they are themselves.
const PARAMS: usize = 100;
const NAME_CHARS: usize = 128;
const VALUE_CHARS: usize = 4096;

/// What became of members that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembersReport {
    /// Members read.
    pub rows: i64,
    /// Taken: `good` = `added` + `replaced` + `unchanged`.
    pub good: i64,
    /// Refused.
    pub bad: i64,
    /// Were not in the group.
    pub added: i64,
    /// Were in the group, and have what was given now in place of what they had; also one that was given twice.
    pub replaced: i64,
    /// Were in the group and stay as they are: of a list of numbers.
    pub unchanged: i64,
    /// Good ones whose address a spreadsheet had taken for a number; it is recovered where no digit is lost.
    pub changed: i64,
    /// Why, of the first of the refused; of a request in JSON all of them.
    pub rejections: Vec<RowRejection>,
}

/// Why members were not taken.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The request or the file as a whole is not what it should be.
    #[error("the members are refused: {}", .0.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<JobError>),
    /// Somebody deleted the group meanwhile.
    #[error("the group was deleted")]
    Gone,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A group that members are read for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    audience: i32,
    pub(super) channel: Channel,
    pub(super) country: Option<country::Id>,
}

impl Target {
    /// With the group's own country unless another is given.
    ///
    /// # Errors
    /// When the country is none, or the channel is one of a later version.
    pub fn new(audience: &AudienceRow, country: Option<&str>) -> Result<Self, JobError> {
        let channel = audience.channel.parse().map_err(|_| {
            let reason = format!("this version does not know the channel {}", audience.channel);
            JobError::new("/channel", "unknown_channel", reason)
        })?;
        let country = country.or(audience.country.as_deref()).map(read_country).transpose()?;
        Ok(Self { audience: audience.id, channel, country })
    }

    /// Checks one member, whose address was read before: every field that is wrong, by name, code and reason.
    pub(super) fn member(
        self,
        address: Result<Address, AddressError>,
        given: Recipient,
    ) -> Result<NewMember, MemberFaults> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, code: &str, reason: String| {
            faults.push((storable(field), code.to_owned(), storable(&reason)));
        };
        if let Err(error) = &address {
            fault("to", address_code(self.channel), error.to_string());
        }
        if given.reference.as_ref().is_some_and(|text| !is_good_text(text, REF_CHARS)) {
            fault("ref", "ill_formed", format!("must have 1 to {REF_CHARS} characters and no NUL"));
        }
        if let Some(unknown) = given.time_zone.as_deref().and_then(|zone| zones::named(zone).err()) {
            fault("time_zone", "unknown_time_zone", unknown.to_string());
        }
        let params: Params = given.params.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        if params.len() > PARAMS {
            fault("params", "too_many", format!("has more than {PARAMS} values"));
        }
        for (name, value) in &params {
            if !is_good_text(name, NAME_CHARS) || !is_good_text(value, VALUE_CHARS) {
                let reason =
                    format!("a name has 1 to {NAME_CHARS}, a value at most {VALUE_CHARS} characters, and no NUL");
                fault(name, "ill_formed", reason);
            }
        }
        match address {
            Ok(address) if faults.is_empty() => Ok(NewMember {
                recipient: address.as_str().to_owned(),
                reference: given.reference,
                time_zone: given.time_zone,
                params,
            }),
            _ => Err(faults),
        }
    }
}

/// A country by its ISO 3166 code.
pub fn read_country(code: &str) -> Result<country::Id, JobError> {
    let reason = || format!("`{code}` is not an ISO 3166 country code");
    code.to_uppercase().parse().map_err(|_| JobError::new("/country", "unknown_country", reason()))
}

/// What is wrong with a member: field, code and reason.
pub(super) type MemberFaults = Vec<(String, String, String)>;

/// What is to be written of members.
#[derive(Debug)]
pub(super) enum Members {
    /// All that is known of them.
    Whole(Vec<NewMember>),
    /// Addresses alone.
    Addresses(Vec<String>),
}

/// Checked members on their way to the database.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) good: Members,
    pub(super) bad: Vec<RowRejection>,
    pub(super) rows: i64,
    /// Addresses that a spreadsheet took for numbers.
    pub(super) changed: i64,
}

impl Chunk {
    pub(super) const fn new(good: Members) -> Self {
        Self { good, bad: Vec::new(), rows: 0, changed: 0 }
    }

    /// Notes why a row is refused.
    pub(super) fn refuse(&mut self, row: i64, faults: MemberFaults) {
        self.bad.extend(faults.into_iter().map(|(field, code, reason)| RowRejection { row, field, code, reason }));
    }
}

/// Adds members that were given in JSON; a bad one is refused alone.
///
/// # Errors
/// When there are too many, or none.
pub async fn add(store: &Store, target: Target, members: &[Value]) -> Result<MembersReport, MembersError> {
    if members.is_empty() || members.len() > MEMBERS_MAX {
        let reason =
            format!("has {} members, a request takes 1 to {MEMBERS_MAX}: fill the group from a file", members.len());
        return Err(MembersError::Refused(vec![JobError::new("/members", "too_many_members", reason)]));
    }
    let mut good = Vec::with_capacity(members.len());
    let mut chunk = Chunk::new(Members::Whole(Vec::new()));
    for (row, value) in (1..).zip(members) {
        chunk.rows = row;
        let mut reader = Reader::default();
        let read = reader.recipient(value, "");
        let checked = match read {
            Some(recipient) if reader.errors.is_empty() => {
                target.member(Address::parse_in(target.channel, &recipient.to, target.country), recipient)
            }
            _ => Err(reader.errors.into_iter().map(fault).collect()),
        };
        match checked {
            Ok(member) => good.push(member),
            Err(faults) => chunk.refuse(row, faults),
        }
    }
    chunk.good = Members::Whole(good);
    let mut report = MembersReport::default();
    write(store, target, chunk, &mut report, usize::MAX).await?;
    Ok(report)
}

fn fault(error: JobError) -> (String, String, String) {
    let field = error.pointer.strip_prefix('/').unwrap_or(&error.pointer);
    (storable(field), error.code.into_owned(), storable(&error.reason))
}

/// Adds the members of a workbook or a CSV file; its columns are `to`, `ref`, `time_zone` and values.
pub async fn fill(
    store: &Store,
    target: Target,
    file: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<MembersReport, MembersError> {
    stream(store, target, file, move |file, chunks| member_file::read(target, file, chunks)).await
}

/// Adds phone numbers, as people paste them. A number that is in the group keeps what is known of it.
///
/// # Errors
/// When the group's channel has no phone numbers.
pub async fn add_numbers(
    store: &Store,
    target: Target,
    text: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<MembersReport, MembersError> {
    if !matches!(target.channel, Channel::Whatsapp | Channel::Viber) {
        let reason = format!("the group is of {}, whose addresses are no phone numbers", target.channel);
        return Err(MembersError::Refused(vec![JobError::new("", "wrong_channel", reason)]));
    }
    stream(store, target, text, move |text, chunks| number_file::read(target, text, chunks)).await
}

/// A blocking thread decodes, parses and checks; this side writes chunks meanwhile. Neither holds more than a few.
async fn stream(
    store: &Store,
    target: Target,
    file: impl Stream<Item = io::Result<Bytes>> + Send,
    read: impl FnOnce(Decoded, &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> + Send + 'static,
) -> Result<MembersReport, MembersError> {
    let (pieces, incoming) = mpsc::channel(8);
    let (chunks, mut made) = mpsc::channel(2);
    let reading = tokio::task::spawn_blocking(move || read(Decoded::new(incoming), &chunks));
    let writing = async {
        let mut report = MembersReport::default();
        while let Some(chunk) = made.recv().await {
            if let Err(error) = write(store, target, chunk, &mut report, FAULTS_SHOWN).await {
                // A reader whose chunks nobody takes ends, and with it the feeding.
                made.close();
                return Err(error);
            }
        }
        Ok(report)
    };
    let ((), written) = tokio::join!(feed(file, pieces), writing);
    let read = reading.await.unwrap_or_else(|_| Err(vec![JobError::new("", "unreadable", "could not be read")]));
    let report = written?;
    read.map_err(|errors| MembersError::Refused(errors.into_iter().map(|error| so_far(error, &report)).collect()))?;
    Ok(report)
}

/// Says what is in the group although the file was refused.
fn so_far(error: JobError, report: &MembersReport) -> JobError {
    if report.good == 0 {
        return error;
    }
    let told = format!("; {} members before that are in: the whole file may be sent again", report.good);
    JobError { reason: error.reason + &told, ..error }
}

async fn write(
    store: &Store,
    target: Target,
    chunk: Chunk,
    report: &mut MembersReport,
    shown: usize,
) -> Result<(), MembersError> {
    let Chunk { good, bad, rows, changed } = chunk;
    let mut work = store.begin().await?;
    if !audiences::lock(&mut work, target.audience).await? {
        return Err(MembersError::Gone);
    }
    let written = match good {
        Members::Whole(members) => {
            let given = members.len();
            // Of an address that stands twice the last is meant, as if they had come one after the other.
            let unique: BTreeMap<String, NewMember> = members.into_iter().map(|m| (m.recipient.clone(), m)).collect();
            let unique: Vec<NewMember> = unique.into_values().collect();
            let mut written = audiences::upsert(&mut work, target.audience, &unique).await?;
            written.replaced += length(given - unique.len());
            written
        }
        Members::Addresses(mut addresses) => {
            let given = addresses.len();
            addresses.sort_unstable();
            addresses.dedup();
            let unique: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let mut written = audiences::insert_addresses(&mut work, target.audience, &unique).await?;
            written.unchanged += length(given - unique.len());
            written
        }
    };
    commit(work, "commit members of an audience").await?;
    let Written { added, replaced, unchanged } = written;
    let good = added + replaced + unchanged;
    report.rows += rows;
    report.good += good;
    report.bad += rows - good;
    report.added += added;
    report.replaced += replaced;
    report.unchanged += unchanged;
    report.changed += changed;
    let room = shown.saturating_sub(report.rejections.len());
    report.rejections.extend(bad.into_iter().take(room));
    Ok(())
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
