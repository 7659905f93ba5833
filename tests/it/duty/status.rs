//! One screen: health, rates, queues, holds and alarms, by the API and the command line.

use std::process::Output;

use campaign_dispatch::registry::tokens::{self, Scope, TokenRequest};
use serde_json::{Value, json};

use super::{LONG, run, watch};
use crate::{
    journey::{Home, job},
    support::{broker::Peer, eventually::eventually, operator::Operator, world::Plan},
};

async fn status(home: &Home, arguments: &[&str]) -> Output {
    let request = TokenRequest {
        name: "duty".to_owned(),
        scopes: vec![Scope::Read],
        producer: None,
        tenant: Some("default".to_owned()),
    };
    let token = tokens::create(&home.world.store, None, &request).await.unwrap().token;
    tokio::process::Command::new(env!("CARGO_BIN_EXE_campaign-dispatch"))
        .arg("status")
        .args(arguments)
        .env("DISPATCH__CLIENT__URL", home.url())
        .env("DISPATCH__CLIENT__TOKEN", token)
        .output()
        .await
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_screen_shows_how_it_is() {
    let home = Home::start(Plan::default()).await;
    let mut connection = home.world.database.connect().await;
    let peer = Peer::new().await;
    let operator = Operator::of(&home, "duty").await;
    home.publish(&peer, &job("order-1", 0..300)).await;
    home.states(&[("read", 300)]).await;
    eventually("what was sent and heard is counted", LONG, async || {
        let counted: (Option<i64>, Option<i64>) =
            sqlx::query_as("SELECT sum(accepted), sum(heard) FROM number_traffic")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        matches!(counted, (Some(300), Some(900..))).then_some(())
    })
    .await;
    let seen = operator.get("/v1/status").await;
    assert_eq!((&seen["healthy"], &seen["alarms"], &seen["holds"]), (&json!(true), &json!([]), &json!([])), "{seen}");
    assert_eq!(seen["workers"], json!({"processes": 1, "numbers": 1, "served": 1}));
    let rate = &seen["rates"][0];
    assert_eq!((&rate["business_number"], &rate["has_worker"]), (&json!("+81312340001"), &json!(true)));
    assert!(
        rate["accepted_per_s"].as_f64().unwrap() > 2.0 && rate["callbacks_per_s"].as_f64().unwrap() > 7.0,
        "{rate}"
    );
    assert_eq!(seen["queues"].as_array().unwrap().len(), 5, "{seen}");
    let output = status(&home, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for part in ["healthy\n", "postgres: ok", "ALARMS: none", "HOLDS: none", "+81312340001", ".jobs.urgent"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }

    let scope = json!({"scope": "account:1", "reason": "spam complaints"});
    let (code, hold) = operator.post("/v1/holds", Some(&scope)).await;
    assert_eq!(code, 201, "{hold}");
    let seen = eventually("the process looks", LONG, async || {
        run(&mut connection, "UPDATE round SET begun = now() - interval '1 hour' WHERE name = 'alarms'").await;
        watch(&home.world).step(true).await.unwrap();
        let seen = operator.get("/v1/status").await;
        (seen["healthy"] == false).then_some(seen)
    })
    .await;
    let alarm = &seen["alarms"][0];
    assert_eq!(
        (&alarm["kind"], &alarm["scope"], &alarm["name"]),
        (&json!("hold"), &json!("account:1"), &json!("main"))
    );
    assert_eq!(alarm["next"], format!("campaign-dispatch holds show {}", hold["id"]));
    let output = status(&home, &[]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    for part in ["somebody must look\n", "account:1 (main)", "person: duty: spam complaints", "holds show"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    let output = status(&home, &["--json"]).await;
    assert_eq!(output.status.code(), Some(3));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["alarms"][0]["kind"], "hold");
    let metrics = reqwest::get(format!("{}/metrics", home.url())).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("alarms_open{kind=\"hold\"} 1\n"), "{metrics}");
    run(&mut connection, "UPDATE hold SET closed_at = now()").await;
    home.finish().await;
}
