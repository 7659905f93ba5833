//! A person with a token.

use campaign_dispatch::registry::tokens::{self, Scope, TokenRequest};
use serde_json::Value;

use crate::journey::Home;

/// The API as a person uses it.
pub(crate) struct Operator {
    url: String,
    token: String,
}

impl Operator {
    pub(crate) async fn of(home: &Home, name: &str) -> Self {
        let request = TokenRequest {
            name: name.to_owned(),
            scopes: vec![Scope::Operate, Scope::Read],
            producer: None,
            tenant: Some("default".to_owned()),
        };
        let token = tokens::create(&home.world.store, None, &request).await.unwrap().token;
        Self { url: home.url(), token }
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request =
            reqwest::Client::new().request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    pub(crate) async fn put(&self, document: &Value, query: &str) -> (u16, Value) {
        let path = format!("/v1/campaigns/{}{query}", document["key"].as_str().unwrap());
        self.call(reqwest::Method::PUT, &path, Some(document)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(reqwest::Method::POST, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(reqwest::Method::GET, path, None).await.1
    }
}
