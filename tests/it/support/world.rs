//! A small world to send in: a database, a simulator, a registry that both know.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use campaign_dispatch::{
    broker::Wakes,
    dispatch::Dispatch,
    domain::{
        Category, Channel,
        ids::{BatchId, NumberId, TemplateId},
        lane::Lane,
        uncertain::UncertainOverrides,
        wake::Wake,
    },
    providers::{self, http::HttpClient},
    registry::{
        apply::{self, Means, RegistryUpdate},
        file::{AccountEntry, CredentialSource, NumberEntry, ParameterFormat, RegistryFile, TemplateEntry},
    },
    settings::Settings,
    simulator::{self, LedgerReport, Running, SimulatorSettings},
    store::{Store, registry::Directory, vault::Vault},
};
use secrecy::SecretString;
use sqlx::{PgConnection, Row as _};
use tokio_util::sync::CancellationToken;

use super::{db::Database, eventually::eventually};

/// The key of every test installation.
pub(crate) const KEY: [u8; 32] = [7; 32];

/// How a world is set up.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Limits of the numbers, in order; `None` is unlimited.
    pub(crate) limits: Vec<Option<u32>>,
    /// Whether recipients misbehave by suffix.
    pub(crate) suffix_faults: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { limits: vec![None], suffix_faults: false }
    }
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) simulator: Running,
    pub(crate) settings: Arc<Settings>,
    pub(crate) store: Store,
    pub(crate) directory: Directory,
    wakes: Wakes,
}

/// Counts of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) BTreeMap<String, i64>);

impl Counts {
    pub(crate) fn of(&self, state: &str) -> i64 {
        self.0.get(state).copied().unwrap_or_default()
    }

    pub(crate) fn sent(&self) -> i64 {
        ["accepted", "sent", "delivered", "read"].iter().map(|state| self.of(state)).sum()
    }
}

/// A running dispatch.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) stop: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<()>,
}

impl Worker {
    pub(crate) async fn drain(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }
}

/// What both the simulator and the product are told.
pub(crate) fn registry(plan: &Plan, base_url: &str) -> RegistryFile {
    let secret = |name: &str| CredentialSource::Env(name.to_owned());
    let template = |name: &str, category| TemplateEntry {
        account: "main".to_owned(),
        tenant: "default".to_owned(),
        name: name.to_owned(),
        language: "ja".to_owned(),
        provider_template_id: Some(format!("code-of-{name}")),
        category,
        status: "approved".to_owned(),
        parameter_format: ParameterFormat::Named,
        components: serde_json::from_str(
            r#"[{"type":"BODY","text":"{{name}}様、{{shop}}です","example":{"body_text_named_params":[
                {"param_name":"name","example":"佐藤"},{"param_name":"shop","example":"渋谷店"}]}}]"#,
        )
        .unwrap(),
    };
    RegistryFile {
        accounts: vec![AccountEntry {
            name: "main".to_owned(),
            tenant: "default".to_owned(),
            portfolio: Some("acme".to_owned()),
            channel: Channel::Whatsapp,
            provider: "whatsapp_cloud".to_owned(),
            base_url: base_url.to_owned(),
            api_version: "v25.0".to_owned(),
            waba_id: "2001".to_owned(),
            uncertain: UncertainOverrides::default(),
            tier: None,
            countries: BTreeSet::new(),
            rates: None,
            credentials: BTreeMap::from([
                ("access_token".to_owned(), secret("TEST_ACCESS_TOKEN")),
                ("app_secret".to_owned(), secret("TEST_APP_SECRET")),
                ("verify_token".to_owned(), secret("TEST_VERIFY_TOKEN")),
            ]),
        }],
        numbers: (1..)
            .zip(&plan.limits)
            .map(|(i, limit)| NumberEntry {
                account: "main".to_owned(),
                tenant: "default".to_owned(),
                business_number: format!("+8131234{i:04}"),
                provider_number_id: format!("{}", 1000 + i),
                limit: limit.and_then(NonZeroU32::new),
                status: "connected".to_owned(),
            })
            .collect(),
        templates: vec![template("offer", Category::Marketing), template("order", Category::Utility)],
        ..RegistryFile::default()
    }
}

fn secrets() -> BTreeMap<String, BTreeMap<String, SecretString>> {
    let secret = |name: &str| SecretString::from(std::env::var(name).unwrap());
    BTreeMap::from([(
        "default/main".to_owned(),
        BTreeMap::from([
            ("access_token".to_owned(), secret("TEST_ACCESS_TOKEN")),
            ("app_secret".to_owned(), secret("TEST_APP_SECRET")),
            ("verify_token".to_owned(), secret("TEST_VERIFY_TOKEN")),
        ]),
    )])
}

/// Settings with a database and broker of this test, over the defaults.
pub(crate) fn settings(database: &Database, more: &[(&str, &str)]) -> Arc<Settings> {
    use secrecy::ExposeSecret as _;
    let mut environment = vec![
        ("DATABASE_URL".to_owned(), database.url().expose_secret().to_owned()),
        ("AMQP_URL".to_owned(), std::env::var("AMQP_URL").unwrap_or_default()),
        ("DISPATCH__SECRETS__KEY".to_owned(), hex::encode(KEY)),
        ("DISPATCH__HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
    ];
    environment.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Arc::new(Settings::load(None, environment.into_iter()).unwrap())
}

impl World {
    pub(crate) async fn start(plan: Plan) -> Self {
        Self::start_with(plan, &[]).await
    }

    pub(crate) async fn start_with(plan: Plan, more: &[(&str, &str)]) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init()
            .ok();
        let database = Database::create().await;
        let settings = settings(&database, more);
        let mut simulated = SimulatorSettings::new(registry(&plan, "http://127.0.0.1:1"), ".");
        simulated.suffix_faults = plan.suffix_faults;
        let simulator = simulator::start(simulated).await.unwrap();
        let store = Store::new(database.url(), 4).unwrap();
        let vault = Vault::new(KEY);
        let providers = providers::registry(&HttpClient::new(&settings.provider).unwrap());
        let update = RegistryUpdate { registry: registry(&plan, &simulator.url()), secrets: secrets() };
        let directory = Directory::new(store.clone(), vault.clone());
        let tenant = campaign_dispatch::domain::ids::TenantId(1);
        apply::apply(Means { store: &store, vault: &vault, providers: &providers }, tenant, &update).await.unwrap();
        directory.refresh().await.unwrap();
        Self { database, simulator, settings, store, directory, wakes: Wakes::here() }
    }

    /// The id of the n-th number, from 1.
    pub(crate) fn number(&self, n: usize) -> NumberId {
        let name = format!("+8131234{n:04}");
        self.directory.current().numbers.values().find(|number| number.business_number == name).unwrap().id
    }

    pub(crate) fn template(&self, name: &str) -> TemplateId {
        self.directory.current().templates.values().find(|t| t.template.name == name).unwrap().id
    }

    /// A dispatch of its own, as another process would have.
    pub(crate) fn work(&self) -> Worker {
        let stop = CancellationToken::new();
        let directory = Directory::new(self.store.clone(), Vault::new(KEY));
        let dispatch = Dispatch {
            settings: Arc::clone(&self.settings),
            store: self.store.clone(),
            directory,
            providers: providers::registry(&HttpClient::new(&self.settings.provider).unwrap()),
            wakes: self.wakes.clone(),
        };
        let ended = dispatch.spawn(stop.clone()).unwrap();
        Worker { stop, ended }
    }

    /// Says that a number has new work.
    pub(crate) fn wake(&self, number: NumberId) {
        self.wakes.announce(Wake { numbers: [number].into(), urgent: [number].into(), ..Wake::default() });
    }

    /// Puts a batch into the database as intake would: `count` recipients from `first` on.
    pub(crate) async fn batch(&self, number: NumberId, template: &str, first: u32, count: i32) -> BatchId {
        let lane = Lane::from(self.directory.current().templates[&self.template(template)].template.category);
        self.batch_in(lane, number, template, first, count).await
    }

    /// As [`World::batch`], in a lane that need not be its template's.
    pub(crate) async fn batch_in(
        &self,
        lane: Lane,
        number: NumberId,
        template: &str,
        first: u32,
        count: i32,
    ) -> BatchId {
        let template = self.template(template);
        let account = self.directory.current().numbers[&number].account.id;
        let batch = BatchId::due_at(chrono::Utc::now());
        let mut connection = self.database.connect().await;
        sqlx::query(
            "INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, params, state,
                                recipients, send_at, expires_at)
             VALUES ($1, 1, 'test', $1::text, $2, $3, $4, $5::lane, '{\"body.shop\":\"渋谷店\"}', 'planned', $6, now(), now() + interval '1 hour')",
        )
        .bind(batch.0)
        .bind(account.0)
        .bind(number.0)
        .bind(template.0)
        .bind(lane.as_str())
        .bind(count)
        .execute(&mut connection)
        .await
        .unwrap();
        let texts = [
            "INSERT INTO batch_tally (batch_id, pending) SELECT $1, $2 WHERE $2 > 1 AND $3 >= 0 AND $4 > 0 AND $5 <> ''",
            "INSERT INTO message (batch_id, seq, recipient, params)
             SELECT $1, i, '+8190' || lpad(($3 + i)::text, 8, '0'), '{\"body.name\":\"佐藤\"}' FROM generate_series(1, $2) i WHERE $4 > 0 AND $5 <> ''",
            "INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
             SELECT $1, i, $4, $5::lane, 'ready', CASE WHEN $2 > 50 THEN $1 ELSE '00000000-0000-0000-0000-000000000000' END, now()
             FROM generate_series(1, $2) i WHERE $3 >= 0",
        ];
        for text in texts {
            sqlx::query(text)
                .bind(batch.0)
                .bind(count)
                .bind(i64::from(first))
                .bind(number.0)
                .bind(lane.as_str())
                .execute(&mut connection)
                .await
                .unwrap();
        }
        self.wake(number);
        batch
    }

    /// Messages of a batch of their own each, as intake leaves them.
    pub(crate) async fn jobs_of_one(&self, number: NumberId, count: i32) {
        let mut connection = self.database.connect().await;
        sqlx::query(
            "WITH made AS (
                 INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, params,
                                    state, recipients, send_at, expires_at)
                 SELECT overlay(b.batch_id::text PLACING lpad(to_hex(i), 12, '0') FROM 25)::uuid, 1, 'test', 'one ' || i,
                        b.account_id, $1, b.template_id, b.lane, b.params, 'planned', 1, now(), now() + interval '1 hour'
                 FROM generate_series(1, $2) i, (SELECT * FROM batch LIMIT 1) b
                 RETURNING batch_id, lane
             ), messages AS (
                 INSERT INTO message (batch_id, seq, recipient) SELECT batch_id, 1, '+819000000000' FROM made
             )
             INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
             SELECT batch_id, 1, $1, lane, 'ready', uuid '00000000-0000-0000-0000-000000000000', now() FROM made",
        )
        .bind(number.0)
        .bind(count)
        .execute(&mut connection)
        .await
        .unwrap();
    }

    /// The counts of all batches, from the rows.
    pub(crate) async fn counts(&self) -> Counts {
        counts(&mut self.database.connect().await).await
    }

    /// Waits until nothing is pending.
    pub(crate) async fn all_called(&self, within: Duration) -> Counts {
        let mut connection = self.database.connect().await;
        eventually("all messages are called", within, async || {
            let counts = counts(&mut connection).await;
            (counts.of("pending") == 0).then_some(counts)
        })
        .await
    }

    pub(crate) fn ledger(&self) -> LedgerReport {
        self.simulator.ledger()
    }

    /// Every balance of promise 1, then the world ends.
    pub(crate) async fn finish(self) {
        let mut connection = self.database.connect().await;
        assert_balanced(&mut connection).await;
        drop(connection);
        self.store.pool().close().await;
        self.simulator.stop().await;
        self.database.drop().await;
    }
}

async fn counts(connection: &mut PgConnection) -> Counts {
    let rows = sqlx::query("SELECT state::text AS state, count(*) AS n FROM message GROUP BY 1")
        .fetch_all(connection)
        .await
        .unwrap();
    Counts(rows.into_iter().map(|row| (row.get("state"), row.get("n"))).collect())
}

/// Tallies equal a recount, and exactly the pending and uncertain messages have a work row.
pub(crate) async fn assert_balanced(connection: &mut PgConnection) {
    let wrong: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM batch_tally t
         JOIN batch b USING (batch_id)
         JOIN LATERAL (
             SELECT count(*) AS messages, count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'uncertain') AS uncertain,
                    count(*) FILTER (WHERE state = 'accepted') AS accepted, count(*) FILTER (WHERE state = 'sent') AS sent,
                    count(*) FILTER (WHERE state = 'delivered') AS delivered, count(*) FILTER (WHERE state = 'read') AS read,
                    count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'expired') AS expired,
                    count(*) FILTER (WHERE state = 'suppressed') AS suppressed,
                    count(*) FILTER (WHERE state = 'cancelled') AS cancelled
             FROM message m WHERE m.batch_id = t.batch_id
         ) r ON true
         WHERE (b.recipients, t.pending, t.uncertain, t.accepted, t.sent, t.delivered, t.read, t.failed, t.expired, t.suppressed, t.cancelled)
               IS DISTINCT FROM (r.messages, r.pending, r.uncertain, r.accepted, r.sent, r.delivered, r.read, r.failed, r.expired, r.suppressed, r.cancelled)",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(wrong, 0, "tallies differ from a recount");
    let odd: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM message m FULL JOIN work w ON w.batch_id = m.batch_id AND w.seq = m.seq
         WHERE coalesce(m.state IN ('pending', 'uncertain'), false) <> (w.seq IS NOT NULL)",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(odd, 0, "work rows do not match the states");
    let failures: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM message m FULL JOIN failed_message f ON f.batch_id = m.batch_id AND f.seq = m.seq
         WHERE coalesce(m.state IN ('failed', 'expired'), false) <> (f.seq IS NOT NULL)",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(failures, 0, "failure rows do not match the states");
    let groups: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT m.accepted_at BETWEEN g.first_at AND g.last_at AND count(*) OVER (PARTITION BY batch_id, seq) = 1 AS fits
             FROM (SELECT batch_id, seq, accepted_at FROM message WHERE accepted_at IS NOT NULL) m
             FULL JOIN (SELECT batch_id, unnest(seqs) AS seq, first_at, last_at FROM sent_group) g USING (batch_id, seq)) f
         WHERE NOT coalesce(fits, false)",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    assert_eq!(groups, 0, "groups of sent messages do not have each accepted message once");
}
