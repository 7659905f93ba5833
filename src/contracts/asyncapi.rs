//! What goes over RabbitMQ, as an `AsyncAPI` 3.0 document: jobs in, answers and events out.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::events::{Described, KINDS};
use crate::intake::job::{CancelJob, JobAnswer, SendJob};

const ABOUT: &str = "Names of exchanges and queues begin with `broker.prefix` (`dispatch`). Bodies are JSON. \
    An event is told at least once, with the same `id` and AMQP `message_id` when it comes again; events about one message, \
    and those about one batch, come in their order. Within v1 fields are only added.";

/// The document.
pub(super) fn document() -> Result<String, serde_json::Error> {
    let mut generator =
        SchemaSettings::draft07().with(|s| s.definitions_path = "/components/schemas".into()).into_generator();
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    jobs(&mut generator, &mut channels, &mut operations, &mut messages);
    for kind in KINDS {
        let name = kind.kind.as_str();
        messages.insert(name.to_owned(), message(name, kind.summary, &kind.schema(&mut generator)));
        channels.insert(name.to_owned(), event_channel(kind));
        operations.insert(name.to_owned(), operation("send", name, kind.summary, &[name]));
    }
    super::pretty(&json!({
        "asyncapi": "3.0.0",
        "info": {"title": "campaign-dispatch", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": generator.take_definitions(true)},
    }))
}

type Section = Map<String, Value>;

fn jobs(generator: &mut SchemaGenerator, channels: &mut Section, operations: &mut Section, messages: &mut Section) {
    let send = generator.subschema_for::<SendJob>();
    let cancel = generator.subschema_for::<CancelJob>();
    let answer = generator.subschema_for::<JobAnswer>();
    messages.insert("send-job".to_owned(), message("send-job", "A template to many people.", &send));
    messages.insert("cancel-job".to_owned(), message("cancel-job", "Gives up what is left of a job.", &cancel));
    messages.insert("job-answer".to_owned(), message("job-answer", "What became of a job.", &answer));
    let roads =
        [("jobs", "Jobs."), ("jobs.urgent", "Jobs with a template of the category authentication, and no others.")];
    for (key, summary) in roads {
        let kinds = ["send-job", "cancel-job"];
        channels.insert(key.to_owned(), channel(key, summary, &kinds, "dispatch"));
        let mut operation =
            operation("receive", key, "Publish it persistent and mandatory; again until it is answered.", &kinds);
        operation["reply"] = json!({
            "address": {"location": "$message.header#/reply_to", "description": "The queue in `reply_to`, when there is one."},
            "channel": {"$ref": "#/channels/reply"},
        });
        operations.insert(key.to_owned(), operation);
    }
    let reply = json!({"address": null, "messages": {"job-answer": {"$ref": "#/components/messages/job-answer"}},
        "description": "The bare answer, with the `correlation_id` of the job, once."});
    channels.insert("reply".to_owned(), reply);
}

fn event_channel(kind: &Described) -> Value {
    let name = kind.kind.as_str();
    if !kind.has_producer {
        return channel(name, kind.summary, &[name], "dispatch.events");
    }
    let mut channel = channel(&format!("{name}.{{producer}}"), kind.summary, &[name], "dispatch.events");
    channel["parameters"] =
        json!({"producer": {"description": "Whose job it is about; of an unreadable one `unknown`."}});
    channel
}

fn channel(address: &str, summary: &str, messages: &[&str], exchange: &str) -> Value {
    let refs =
        messages.iter().map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/messages/{name}")})));
    json!({
        "address": address,
        "summary": summary,
        "messages": refs.collect::<Section>(),
        "bindings": {"amqp": {"is": "routingKey", "exchange": {"name": exchange, "type": "topic", "durable": true}}},
    })
}

fn operation(action: &str, channel: &str, summary: &str, messages: &[&str]) -> Value {
    let refs: Vec<Value> =
        messages.iter().map(|name| json!({"$ref": format!("#/channels/{channel}/messages/{name}")})).collect();
    json!({"action": action, "channel": {"$ref": format!("#/channels/{channel}")}, "summary": summary, "messages": refs})
}

fn message(name: &str, summary: &str, payload: &Schema) -> Value {
    json!({"name": name, "summary": summary, "contentType": "application/json", "payload": payload})
}
