//! Files of recipients by the API: what is kept, what is refused, and what is answered.

use campaign_dispatch::{
    domain::ids::{AccountId, TemplateId, TenantId},
    registry::tokens::Scope,
    store::imports::{self, NewImport},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{
    api::pages,
    served::{Served, registry},
};

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_file_is_imported_and_its_bad_rows_are_listed(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let path = "/v1/imports?business_number=%2B15550001111&template=spring_offer&language=ja&file_name=a.csv";
    let post = async |path: &str, text: &'static str| {
        let request = served.client().post(format!("{}{path}", served.url)).bearer_auth(&admin).body(text);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let (status, made) = post(path, "to,body.1\n+819012345678,佐藤\n123,鈴木\n+819012345679,高橋\n").await;
    assert_eq!((status, &made["good"], &made["bad"]), (StatusCode::CREATED, &json!(2), &json!(1)), "{made}");
    let id = made["id"].as_str().unwrap();
    let (_, shown) = served.get(&admin, &format!("/v1/imports/{id}")).await;
    assert_eq!((&shown["state"], &shown["file_name"]), (&json!("ready"), &json!("a.csv")));
    let bad = pages(&served, &admin, &format!("/v1/imports/{id}/rejected"), 1).await;
    assert_eq!((bad.len(), &bad[0]["row"]), (1, &json!(3)), "{bad:?}");
    assert_eq!(served.get(&admin, "/v1/imports").await.1["items"][0]["id"], made["id"]);
    let (status, refused) = post(path, "\u{7f}ELF\u{2}\0\0to\n").await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unreadable")));
    let (_, imports) = served.get(&admin, "/v1/imports").await;
    assert_eq!(imports["items"][0]["state"], "failed");
    assert!(imports["items"][0]["problem"].as_str().unwrap().contains("not text"), "{imports}");
    let (status, refused) = post(&path.replace("spring_offer", "spring_ofer"), "to\n").await;
    assert_eq!(
        (status, &refused["errors"][0]["did_you_mean"][0]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("spring_offer")),
        "{refused}"
    );
}

/// A workbook, row by row; a cell that reads as a number is one.
pub(crate) fn workbook(rows: &[&[&str]]) -> Vec<u8> {
    let mut book = rust_xlsxwriter::Workbook::new();
    let sheet = book.add_worksheet();
    for (row, cells) in (0..).zip(rows) {
        for (column, cell) in (0..).zip(*cells) {
            match cell.parse::<f64>() {
                Ok(number) if !cell.starts_with('+') => sheet.write_number(row, column, number).unwrap(),
                _ => sheet.write_string(row, column, *cell).unwrap(),
            };
        }
    }
    book.save_to_buffer().unwrap()
}

/// The first sheet of a workbook as text.
fn sheet(file: Vec<u8>) -> Vec<Vec<String>> {
    use calamine::{Data, Reader as _};
    let mut book = calamine::Xlsx::new(std::io::Cursor::new(file)).unwrap();
    let range = book.worksheet_range_at(0).unwrap().unwrap();
    range.rows().map(|row| row.iter().map(Data::to_string).collect()).collect()
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_workbook_is_imported_and_its_report_is_one(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Pii]).await;
    served.put_registry(&admin, &registry()).await;
    let names = "business_number=%2B15550001111&template=spring_offer&language=ja";
    let call = async |request: reqwest::RequestBuilder| {
        let answer = request.bearer_auth(&admin).send().await.unwrap();
        (answer.status(), answer.headers().clone(), answer.bytes().await.unwrap().to_vec())
    };
    let url = |path: &str| format!("{}{path}", served.url);
    let file = workbook(&[
        &["to", "body.1", "ref"],
        &["+819012345678", "佐藤", "a"],
        &["819012345679", "鈴木", "b"],
        &["123", "高橋", "c"],
        &["+819012345678", "田中", "d"],
    ]);
    let post = served.client().post(url(&format!("/v1/imports?{names}&file_name=春.xlsx"))).body(file);
    let (status, _, made) = call(post).await;
    let made: Value = serde_json::from_slice(&made).unwrap();
    let counts = ["rows", "good", "bad", "changed"].map(|name| made[name].as_i64().unwrap());
    assert_eq!((status, counts), (StatusCode::CREATED, [4, 2, 2, 1]), "{made}");
    let import = format!("/v1/imports/{}", made["id"].as_str().unwrap());
    let changed = pages(&served, &admin, &format!("{import}/changed"), 1).await;
    let changed = ["row", "field", "given", "used"].map(|name| changed[0][name].to_string());
    assert_eq!(changed, ["3", "\"to\"", "\"819012345679\"", "\"+819012345679\""]);
    let masked = served.get(&served.token(&[Scope::Read]).await, &format!("{import}/changed")).await.1;
    assert_eq!(masked["items"][0]["used"], "+8190*****679", "{masked}");
    let (status, headers, report) = call(served.client().get(url(&format!("{import}/report")))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-disposition"], "attachment; filename*=UTF-8''%E6%98%A5.bad.xlsx");
    let duplicate = "to row 5 has the same recipient as row 2, which is kept";
    let invalid = "to is not a valid phone number of its country";
    assert_eq!(
        sheet(report),
        [["to", "body.1", "ref", "reason"], ["123", "高橋", "c", invalid], ["+819012345678", "田中", "d", duplicate],]
    );
    let (status, refused) = served.get(&served.token(&[Scope::Read]).await, &format!("{import}/report")).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (StatusCode::FORBIDDEN, &json!("missing_scope")));
    let (status, _, form) = call(served.client().get(url(&format!("/v1/imports/form?{names}")))).await;
    assert_eq!(
        (status, &sheet(form)[0]),
        (StatusCode::OK, &["to", "ref", "time_zone", "1"].map(str::to_owned).to_vec())
    );
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn the_report_of_a_text_is_in_its_encoding(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin, Scope::Pii]).await;
    served.put_registry(&admin, &registry()).await;
    let names = "business_number=%2B15550001111&template=spring_offer&language=ja&file_name=a.csv";
    let text = "to;body.1\r\n+123;\"高;橋\"\r\n+819012345678;佐藤\r\n";
    let report = "to;body.1;reason\r\n+123;\"高;橋\";to is not a valid phone number of its country\r\n";
    let utf_16 = |text: &str| format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let shift_jis = |text: &str| encoding_rs::SHIFT_JIS.encode(text).0.into_owned();
    let marked = |text: &str| format!("\u{feff}{text}").into_bytes();
    let in_them: [(Vec<u8>, Vec<u8>); 4] = [
        (text.into(), report.into()),
        (marked(text), marked(report)),
        (shift_jis(text), shift_jis(report)),
        (utf_16(text), utf_16(report)),
    ];
    for (given, expected) in in_them {
        let request =
            served.client().post(format!("{}/v1/imports?{names}", served.url)).bearer_auth(&admin).body(given);
        let made: Value = request.send().await.unwrap().json().await.unwrap();
        let url = format!("{}/v1/imports/{}/report", served.url, made["id"].as_str().unwrap());
        let answer = served.client().get(url).bearer_auth(&admin).send().await.unwrap();
        assert_eq!(answer.bytes().await.unwrap(), expected, "{made}");
    }
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn an_import_whose_process_died_fails(_: PgPoolOptions, options: PgConnectOptions) {
    let served = Served::over(&options).await;
    let admin = served.token(&[Scope::Admin]).await;
    served.put_registry(&admin, &registry()).await;
    let mut connection = served.store.acquire().await.unwrap();
    sqlx::query(
        "INSERT INTO import (tenant_id, account_id, template_id, file_name, created_at)
         SELECT 1, 1, 1, age, now() - age::interval FROM (VALUES ('2 hours'), ('1 minute')) AS i (age)",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    // One that is still read, however long it takes, is kept alive by its connection.
    let mut reading = served.store.connect("import").await.unwrap();
    let (tenant, account, template) = (TenantId(1), AccountId(1), TemplateId(1));
    let long = NewImport { id: uuid::Uuid::now_v7(), tenant, account, template, file_name: "long" };
    imports::begin(&mut reading, &long).await.unwrap();
    let age = "UPDATE import SET created_at = now() - interval '2 hours' WHERE file_name = 'long'";
    sqlx::query(age).execute(&mut *connection).await.unwrap();
    assert_eq!(imports::fail_abandoned(&mut connection).await.unwrap(), 1);
    assert_eq!(imports::fail_abandoned(&mut connection).await.unwrap(), 0);
    let (_, listed) = served.get(&admin, "/v1/imports").await;
    let failed: Vec<_> = listed["items"].as_array().unwrap().iter().filter(|i| i["state"] == "failed").collect();
    assert_eq!((failed.len(), &failed[0]["file_name"]), (1, &json!("2 hours")), "{listed}");
}
