//! Every event with its schema: to add one, add it to [`KINDS`].

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::json;

use crate::{
    domain::{
        alarm::Alarm,
        event::{BatchTold, Event, EventKind, HoldTold, MessageTold},
    },
    intake::job::JobAnswer,
};

/// An event as it is described.
pub(super) struct Described {
    pub(super) kind: EventKind,
    /// Whether its routing key ends with the producer.
    pub(super) has_producer: bool,
    /// When it is told.
    pub(super) summary: &'static str,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

const fn of<T: JsonSchema>(kind: EventKind, summary: &'static str) -> Described {
    Described { kind, has_producer: true, summary, schema: SchemaGenerator::subschema_for::<Event<T>> }
}

pub(super) const KINDS: &[Described] = &[
    of::<JobAnswer>(
        EventKind::JobAccepted,
        "A job was taken. `data` is the answer; a repeated job is told again, with the same id.",
    ),
    of::<JobAnswer>(EventKind::JobRejected, "A job was refused. `data` is the answer."),
    of::<MessageTold>(
        EventKind::MessageFailed,
        "A message will not arrive: it failed, expired, was suppressed or cancelled. Told of every message, unless `events.failed` is false.",
    ),
    of::<MessageTold>(
        EventKind::MessageLifted,
        "A message that was told as failed went out after all: a callback about it came late.",
    ),
    of::<MessageTold>(
        EventKind::MessageDelivered,
        "A message reached the recipient's device. Told where the job's `notify` has `delivered`, unless `events.delivered` says otherwise.",
    ),
    of::<MessageTold>(
        EventKind::MessageRead,
        "A message was opened. Told where the job's `notify` has `read`, unless `events.read` says otherwise.",
    ),
    of::<BatchTold>(
        EventKind::BatchDispatched,
        "Nothing of a batch is left to call; once. Some of it may be uncertain, and callbacks may still fail messages.",
    ),
    of::<BatchTold>(
        EventKind::BatchCompleted,
        "Nothing of a batch is pending or uncertain any more; once, after `batch.dispatched.v1`.",
    ),
    Described {
        has_producer: false,
        ..of::<HoldTold>(
            EventKind::HoldOpened,
            "Something is not sent to from now on, until somebody or something ends the hold. The canary of a batch is told when it stays for a person.",
        )
    },
    Described {
        has_producer: false,
        ..of::<Alarm>(
            EventKind::AlarmRaised,
            "Something needs a person; once when it begins. `data` says what to type next.",
        )
    },
    Described {
        has_producer: false,
        ..of::<Alarm>(
            EventKind::AlarmCleared,
            "What was told as `alarm.raised.v1` is over, with the same `scope` and `kind`.",
        )
    },
];

impl Described {
    /// Its schema, with the one type it has.
    pub(super) fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let event = (self.schema)(generator);
        json_schema!({
            "title": self.kind.as_str(),
            "description": self.summary,
            "allOf": [event, {"properties": {"type": {"const": self.kind.as_str()}}}],
        })
    }
}

/// All events as one schema.
pub(super) fn document() -> Result<String, serde_json::Error> {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds: Vec<Schema> = KINDS.iter().map(|kind| kind.schema(&mut generator)).collect();
    let document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "description": "An event on `dispatch.events`, by the routing key `<type>.<producer>`, or `<type>` where no producer is concerned. \
            Its id is also the AMQP `message_id`: the same event may come twice. More types will be added: leave alone what you do not know.",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    });
    super::pretty(&document)
}
