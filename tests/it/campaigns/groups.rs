//! Campaigns of audience groups: who is in the group at the firing gets it.

use campaign_dispatch::registry::tokens::{self, Scope, TokenRequest};
use serde_json::{Value, json};

use super::{document, operator::Operator};
use crate::{journey::Home, support::world::Plan};

#[tokio::test(flavor = "multi_thread")]
async fn each_firing_goes_to_whom_the_group_has_then() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let request = TokenRequest {
        name: "crm".to_owned(),
        scopes: vec![Scope::Publish],
        producer: None,
        tenant: Some("default".to_owned()),
    };
    let token = tokens::create(&home.world.store, None, &request).await.unwrap().token;
    let crm = async |path: &str, body: Value| {
        let url = format!("{}{path}", home.url());
        let answer = reqwest::Client::new().post(url).bearer_auth(&token).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let people = |numbers: std::ops::Range<u32>| -> Value {
        let person = |i| json!({"to": format!("+8190{:08}", 20_000_000 + i), "params": {"name": "佐藤"}});
        json!({"members": numbers.map(person).collect::<Vec<_>>()})
    };
    let mut weekly = document("weekly", &json!("on_demand"));
    weekly["audience"] = json!({"group": "vip"});
    weekly["approval_over"] = json!(1000);
    let (status, refused) = ann.put(&weekly, "").await;
    assert_eq!((status, &refused["errors"][0]["code"]), (422, &json!("unknown_audience")), "{refused}");
    assert_eq!(crm("/v1/audiences", json!({"name": "vip", "channel": "whatsapp"})).await.0, 201);
    assert_eq!(ann.put(&weekly, "").await.0, 200);
    assert_eq!(crm("/v1/audiences/vip/members", people(0..20)).await.1["added"], 20);
    assert_eq!(ann.post("/v1/campaigns/weekly/run", None).await.0, 202);
    home.states(&[("read", 20)]).await;
    assert_eq!(crm("/v1/audiences/vip/members", people(10..30)).await.1["added"], 10);
    assert_eq!(ann.post("/v1/campaigns/weekly/run", None).await.0, 202);
    home.states(&[("read", 50)]).await;
    let totals = home.world.ledger().totals;
    assert_eq!((totals.accepted, totals.doubled), (50, 0));
    home.finish().await;
}
