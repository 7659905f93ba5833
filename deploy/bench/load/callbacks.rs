//! Callbacks as the provider posts them, each signed and ready before the first is sent.

use std::{
    io::BufRead as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use hmac::{Hmac, Mac as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{now_ms, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Callbacks {
    /// Host and port of `serve`
    #[arg(long)]
    host: String,
    /// The callback path of the account
    #[arg(long)]
    path: String,
    /// Signs the bodies
    #[arg(long)]
    secret: String,
    /// The installation that the tokens name
    #[arg(long)]
    installation: String,
    /// sent, delivered or read
    #[arg(long, default_value = "sent")]
    status: String,
    /// Connections, one request on each at a time
    #[arg(long, default_value_t = 400)]
    connections: usize,
}

impl Callbacks {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let requests = self.requests()?;
        let next = AtomicUsize::new(0);
        let mut streams = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let stream = TcpStream::connect(&self.host).await.context("could not connect to serve")?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let began = now_ms();
        let again = try_join_all(streams.into_iter().map(|stream| post(stream, &requests, &next))).await?;
        let (ended, again) = (now_ms(), again.iter().sum::<usize>());
        say(&format!("{began:.3} {ended:.3} {} {again}", requests.len()))
    }

    fn requests(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut requests = Vec::new();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let words: Vec<&str> = line.split(' ').collect();
            let [batch, seq, number] = words[..] else { bail!("`{line}` is not `batch seq number`") };
            requests.push(self.request(batch, seq, number)?);
        }
        ensure!(!requests.is_empty(), "no messages on standard input");
        Ok(requests)
    }

    fn request(&self, batch: &str, seq: &str, number: &str) -> anyhow::Result<Vec<u8>> {
        let Self { host, path, installation, status, .. } = self;
        let now = now_ms() / 1000.0;
        let body = format!(
            r#"{{"object":"whatsapp_business_account","entry":[{{"id":"1","changes":[{{"field":"messages","value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"81312340001","phone_number_id":"{number}"}},"contacts":[{{"profile":{{"name":"\u4f50\u85e4"}},"wa_id":"819010000001"}}],"statuses":[{{"id":"wamid.HBgMODE5MDEwMDAwMDAxFQIAERgS{seq:0>12}","status":"{status}","timestamp":"{now:.0}","recipient_id":"819010000001","biz_opaque_callback_data":"v1.{installation}.{batch}.{seq}.1","pricing":{{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}}}}]}}}}]}}]}}"#
        );
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.secret.as_bytes())?;
        mac.update(body.as_bytes());
        let signature = hex::encode(mac.finalize().into_bytes());
        let length = body.len();
        Ok(format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nUser-Agent: facebookexternalua\r\nX-Hub-Signature-256: sha256={signature}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes())
    }
}

/// Posts whatever is next until nothing is left; returns how often it was told to come again.
async fn post(mut stream: TcpStream, requests: &[Vec<u8>], next: &AtomicUsize) -> anyhow::Result<usize> {
    let (mut answer, mut again) = (vec![0; 4096], 0);
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        loop {
            stream.write_all(request).await?;
            let length = stream.read(&mut answer).await?;
            let answer = answer.get(..length).unwrap_or_default();
            if answer.starts_with(b"HTTP/1.1 200") {
                break;
            }
            ensure!(answer.starts_with(b"HTTP/1.1 503"), "answered {}", String::from_utf8_lossy(answer));
            again += 1;
        }
    }
    Ok(again)
}
