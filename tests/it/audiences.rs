//! Audience groups by the API: kept, filled, emptied, exported.

use campaign_dispatch::registry::tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{
    imports::workbook,
    served::{Served, registry},
};

const ALL: &[Scope] = &[Scope::Read, Scope::Publish, Scope::Operate, Scope::Pii];

/// A group `vip` of WhatsApp, with numbers of Japan.
async fn vip(served: &Served, token: &str) {
    let wish = json!({"name": "vip", "channel": "whatsapp", "country": "jp", "time_zone": "Asia/Tokyo"});
    let (status, made) = served.call(token, Method::POST, "/v1/audiences", Some(wish)).await;
    assert_eq!((status, &made["members"], &made["country"]), (StatusCode::CREATED, &json!(0), &json!("JP")), "{made}");
}

async fn send(served: &Served, token: &str, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
    let request = served.client().post(format!("{}{path}", served.url)).bearer_auth(token).body(body);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn export(served: &Served, token: &str) -> String {
    let request = served.client().get(format!("{}/v1/audiences/vip/export", served.url)).bearer_auth(token);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    response.text().await.unwrap()
}

fn counts(report: &Value) -> [i64; 6] {
    ["rows", "good", "bad", "added", "replaced", "unchanged"].map(|name| report[name].as_i64().unwrap())
}

fn told(report: &Value) -> Vec<String> {
    let told = |r: &Value| format!("{} {} {}", r["row"], r["field"].as_str().unwrap(), r["code"].as_str().unwrap());
    report["rejections"].as_array().unwrap().iter().map(told).collect()
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn members_are_added_one_by_one(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let token = served.token(ALL).await;
    vip(&served, &token).await;
    let members = json!([
        {"to": "+81 90-1234-5001", "ref": "crm-1", "params": {"name": "佐藤"}},
        {"to": "090-1234-5002", "params": {"name": "鈴木"}},
        {"to": "090-1"}, {"too": "+819012345003"}, {"to": "+819012345004", "time_zone": "Asia/Tokio"}, 7
    ]);
    let path = "/v1/audiences/vip/members";
    let (status, report) = served.call(&token, Method::POST, path, Some(json!({ "members": members }))).await;
    assert_eq!((status, counts(&report)), (StatusCode::OK, [6, 2, 4, 2, 0, 0]), "{report}");
    let expected = [
        "3 to invalid_number",
        "4 too unknown_field",
        "4 to missing_field",
        "5 time_zone unknown_time_zone",
        "6  wrong_type",
    ];
    assert_eq!(told(&report), expected);

    // Again and otherwise: what was known is replaced.
    let again = json!({"members": [{"to": "+819012345001"}, {"to": "+819012345005", "ref": "a"}, {"to": "09012345005", "ref": "b"}]});
    let (_, report) = served.call(&token, Method::POST, path, Some(again)).await;
    assert_eq!(counts(&report), [3, 3, 0, 1, 2, 0], "{report}");
    let (_, shown) = served.get(&token, "/v1/audiences/vip").await;
    assert_eq!(shown["members"], 3);
    let lines = export(&served, &token).await;
    assert!(
        lines.contains("\"+819012345001\",\"\",\"\",\"\"\n") && lines.contains("\"+819012345005\",\"b\""),
        "{lines}"
    );

    let remove = async |to: &str| served.call(&token, Method::DELETE, &format!("{path}/{to}"), None).await.0;
    assert_eq!(remove("%2B81%2090-1234-5001").await, StatusCode::NO_CONTENT);
    assert_eq!(remove("%2B819012345001").await, StatusCode::NOT_FOUND);
    assert_eq!(remove("nobody").await, StatusCode::NOT_FOUND);
    assert_eq!(served.call(&token, Method::DELETE, path, None).await.1, json!({"removed": 2}));
    assert_eq!(served.get(&token, "/v1/audiences/vip").await.1["members"], 0);
    let bad: Vec<Value> = (0..500).map(|_| json!({"to": "x"})).collect();
    let (_, report) = served.call(&token, Method::POST, path, Some(json!({ "members": bad }))).await;
    assert_eq!((report["bad"].as_i64(), told(&report).len()), (Some(500), 500), "each is told");
    let many: Vec<Value> = (0..1001).map(|_| json!({"to": "x"})).collect();
    let (status, refused) = served.call(&token, Method::POST, path, Some(json!({ "members": many }))).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_many_members")));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_file_and_a_list_of_numbers_fill_a_group(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let (token, masked) = (served.token(ALL).await, served.token(&[Scope::Read]).await);
    vip(&served, &token).await;
    let file = "to;name;ref;body.shop\r\n090-1234-5001;佐藤;=1+1;渋谷店\r\n\r\n090-1;x;;\r\n09012345002;;-5;\r\n09012345001;鈴木;@a;\r\n";
    let file = encoding_rs::SHIFT_JIS.encode(file).0.into_owned();
    let (status, report) = send(&served, &token, "/v1/audiences/vip/fill", file).await;
    assert_eq!((status, counts(&report)), (StatusCode::OK, [4, 3, 1, 2, 1, 0]), "{report}");
    assert_eq!(told(&report), ["4 to invalid_number"]);

    let list = "090−1234−5001, (090)1234-5003\n+81 90 1234 5004\n\n09012345005 09012345006、12\n";
    let (status, report) = send(&served, &token, "/v1/audiences/vip/numbers", list.into()).await;
    assert_eq!((status, counts(&report)), (StatusCode::OK, [6, 5, 1, 4, 0, 1]), "{report}");
    assert_eq!(told(&report), ["4 to invalid_number"]);
    let (_, report) = send(&served, &token, "/v1/audiences/vip/numbers?country=SG", "6521 8000".into()).await;
    assert_eq!(counts(&report), [1, 1, 0, 1, 0, 0], "{report}");

    let whole = export(&served, &token).await;
    let first: Vec<&str> = whole.lines().take(3).collect();
    let expected = [
        "\"to\",\"ref\",\"time_zone\",\"name\"",
        "\"+6565218000\",\"\",\"\",\"\"",
        "\"+819012345001\",\"'@a\",\"\",\"鈴木\"",
    ];
    assert_eq!(first, expected);
    assert_eq!(whole.lines().count(), 8);
    let hidden = export(&served, &masked).await;
    assert!(hidden.contains("\"+8190*****001\"") && !hidden.contains("+819012345001"), "{hidden}");

    // What was exported fills another group alike.
    assert_eq!(served.call(&token, Method::DELETE, "/v1/audiences/vip/members", None).await.0, StatusCode::OK);
    let (_, report) = send(&served, &token, "/v1/audiences/vip/fill", whole.clone().into()).await;
    assert_eq!(counts(&report), [7, 7, 0, 7, 0, 0]);
    assert_eq!(export(&served, &token).await, whole);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_workbook_fills_a_group(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let token = served.token(ALL).await;
    vip(&served, &token).await;
    // A number cell lost its zero, and one its plus.
    let book = workbook(&[&["to", "name"], &["9012345001", "鈴木"], &["819012345002", "高橋"], &["x", "y"]]);
    let (status, report) = send(&served, &token, "/v1/audiences/vip/fill", book.clone()).await;
    assert_eq!(
        (status, counts(&report), &report["changed"]),
        (StatusCode::OK, [3, 2, 1, 2, 0, 0], &json!(2)),
        "{report}"
    );
    assert!(export(&served, &token).await.contains("\"+819012345001\",\"\",\"\",\"鈴木\""));
    let (status, refused) = send(&served, &token, "/v1/audiences/vip/numbers", book).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unreadable")));
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_file_that_is_none_is_refused(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let token = served.token(ALL).await;
    vip(&served, &token).await;
    for (file, code) in [
        (b"PK\x03\x04\x14\0\x06\0".as_slice(), "unreadable"),
        (b"", "unreadable"),
        (b"name,shop\na,b\n", "missing_column"),
        (b"to,a,a\n", "duplicate_column"),
    ] {
        let (status, refused) = send(&served, &token, "/v1/audiences/vip/fill", file.to_vec()).await;
        assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)));
    }
    // Many chunks, and a missing quotation mark at the end: what came before is in, and that is said.
    let rows: Vec<String> = (0..12_000).map(|i| format!("+8190{:08}", 10_000_000 + i)).collect();
    let rows = rows.join("\n") + "\n";
    let broken = format!("to\n{rows}\"{}", "x".repeat(2 << 20));
    let (status, refused) = send(&served, &token, "/v1/audiences/vip/fill", broken.into_bytes()).await;
    let error = &refused["errors"][0];
    assert_eq!((status, &error["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unreadable")));
    assert!(error["reason"].as_str().unwrap().contains("10000 members before that are in"), "{error}");
    assert_eq!(served.get(&token, "/v1/audiences/vip").await.1["members"], 10_000);
    let numbers = send(&served, &token, "/v1/audiences/vip/numbers", rows.into_bytes()).await.1;
    assert_eq!(counts(&numbers), [12_000, 12_000, 0, 2000, 0, 10_000]);
    // Pages of an export join where they should.
    let lines = export(&served, &token).await;
    assert_eq!(lines.lines().count(), 12_001);
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn groups_are_a_tenants_own_and_need_their_scopes(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let (token, reader) = (served.token(ALL).await, served.token(&[Scope::Read]).await);
    vip(&served, &token).await;
    let wish = |name: &str| json!({"name": name, "channel": "whatsapp"});
    let create = async |token: &str, wish: Value| served.call(token, Method::POST, "/v1/audiences", Some(wish)).await;
    assert_eq!(create(&reader, wish("a")).await.0, StatusCode::FORBIDDEN);
    let (status, taken) = create(&token, wish("vip")).await;
    assert_eq!((status, &taken["errors"][0]["code"]), (StatusCode::CONFLICT, &json!("taken")));
    assert_eq!(create(&token, wish("Vip!")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    for method in [Method::DELETE, Method::POST] {
        let path = "/v1/audiences/vip/members";
        assert_eq!(served.call(&reader, method, path, Some(json!({"members": []}))).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(create(&token, wish("b")).await.0, StatusCode::CREATED);
    let (_, page) = served.get(&reader, "/v1/audiences?limit=1").await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("b"), &json!("b")));
    let (_, page) = served.get(&reader, "/v1/audiences?limit=1&after=b").await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("vip"), &Value::Null));

    sqlx::query("INSERT INTO tenant (name) VALUES ('other')").execute(served.store.pool()).await.unwrap();
    let other = served.token_for("other", ALL).await;
    assert_eq!(served.get(&other, "/v1/audiences/vip").await.0, StatusCode::NOT_FOUND);
    assert_eq!(served.call(&other, Method::DELETE, "/v1/audiences/vip", None).await.0, StatusCode::NOT_FOUND);
    vip(&served, &other).await;
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_group_that_a_campaign_names_is_not_deleted(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let (token, admin) = (served.token(ALL).await, served.token(&[Scope::Admin]).await);
    assert_eq!(served.put_registry(&admin, &registry()).await.0, StatusCode::OK);
    let campaign = json!({"schema": "campaign/v1", "key": "spring", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"}, "audience": {"group": "vip"},
        "schedule": "on_demand", "time_zone": "Asia/Tokyo"});
    let apply = async |query: &str| {
        served.call(&token, Method::PUT, &format!("/v1/campaigns/spring{query}"), Some(campaign.clone())).await
    };
    let (status, refused) = apply("").await;
    let first = &refused["errors"][0];
    let expected = (StatusCode::UNPROCESSABLE_ENTITY, &json!("unknown_audience"), &json!("/audience/group"));
    assert_eq!((status, &first["code"], &first["pointer"]), expected, "{refused}");
    vip(&served, &token).await;
    // It may be filled until the campaign fires.
    assert_eq!(apply("").await.0, StatusCode::OK);
    let (status, refused) = served.call(&token, Method::DELETE, "/v1/audiences/vip", None).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::CONFLICT, &json!("in_use")));
    assert!(refused["errors"][0]["reason"].as_str().unwrap().contains("spring"), "{refused}");

    let forecast = "/v1/campaigns/spring/forecast";
    let (status, refused) = served.get(&token, forecast).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("empty_audience")));
    let members = json!({"members": [{"to": "+819012345001", "params": {"1": "佐藤"}}, {"to": "+819012345002"}]});
    assert_eq!(served.call(&token, Method::POST, "/v1/audiences/vip/members", Some(members)).await.0, StatusCode::OK);
    let (status, would) = served.get(&token, forecast).await;
    assert_eq!((status, &would["recipients"]), (StatusCode::OK, &json!(1)), "{would}");
    assert_eq!(would["left_out"], json!([{"code": "missing_slot", "recipients": 1}]));

    let job = json!({"schema": "send-job/v1", "job_id": "1", "producer": "shop", "business_number": "+15550001111",
        "template": {"name": "spring_offer", "language": "ja"}, "audience": {"group": "vip"}});
    let (status, would) = served.call(&token, Method::POST, "/v1/forecast", Some(job.clone())).await;
    assert_eq!((status, &would["recipients"]), (StatusCode::OK, &json!(1)));
    let (status, answer) = served.call(&token, Method::POST, "/v1/jobs", Some(job)).await;
    assert_eq!((status, &answer["accepted"], &answer["rejected"]), (StatusCode::ACCEPTED, &json!(1), &json!(1)));
    let (_, rejected) =
        served.get(&token, &format!("/v1/batches/{}/rejected", answer["batch_id"].as_str().unwrap())).await;
    assert_eq!(rejected["items"], answer["rejections"], "all refused members stand with the batch");
    assert_eq!(served.get(&token, "/v1/imports").await.1["items"], json!([]), "a frozen group is no import");

    assert_eq!(served.call(&token, Method::POST, "/v1/campaigns/spring/archive", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(served.call(&token, Method::DELETE, "/v1/audiences/vip", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(served.get(&token, "/v1/audiences/vip").await.0, StatusCode::NOT_FOUND);
}
