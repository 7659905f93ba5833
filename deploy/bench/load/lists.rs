//! Pages of lists, one after the other over one connection, each as a client waits for it.

use std::{collections::BTreeMap, io::BufRead as _, time::Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::say;

/// How often each path is asked, how many pages are gone on, and how many first pages a filter has at least: where paths are
/// few they are asked again.
const ROUNDS: usize = 2;
const PAGES: usize = 10;
const FIRSTS: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Lists {
    /// Host and port of `serve`
    #[arg(long)]
    host: String,
    /// The token to ask with
    #[arg(long)]
    token: String,
}

/// The paths of a filter, and the milliseconds of first and of later pages.
#[derive(Default)]
struct Times {
    paths: Vec<String>,
    first: Vec<f64>,
    later: Vec<f64>,
}

impl Lists {
    /// Prints for each filter: name, and of its first and of its later pages count, median and 95th percentile.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stream = BufReader::new(TcpStream::connect(&self.host).await.context("could not connect to serve")?);
        stream.get_ref().set_nodelay(true)?;
        let mut times: BTreeMap<String, Times> = BTreeMap::new();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let (name, path) = line.split_once('|').context("a line is `name|path`")?;
            let times = times.entry(name.to_owned()).or_default();
            times.paths.push(path.to_owned());
            for _ in 0..ROUNDS {
                self.ask(&mut stream, path, PAGES, times).await?;
            }
        }
        for times in times.values_mut() {
            let firsts: Vec<String> = times.paths.iter().filter(|path| !path.contains("after=")).cloned().collect();
            for path in firsts.iter().cycle().take(FIRSTS.saturating_sub(times.first.len())) {
                self.ask(&mut stream, path, 0, times).await?;
            }
        }
        for (name, times) in &mut times {
            let (first, later) = (summary(&mut times.first), summary(&mut times.later));
            say(&format!("{name}|first|{first}|later|{later}"))?;
        }
        Ok(())
    }

    /// Asks for a page and up to `pages` behind it.
    async fn ask(
        &self,
        stream: &mut BufReader<TcpStream>,
        path: &str,
        pages: usize,
        times: &mut Times,
    ) -> anyhow::Result<()> {
        let (path, place) = path.split_once("&after=").map_or((path, None), |(path, place)| (path, Some(place)));
        let joint = if path.contains('?') { '&' } else { '?' };
        let (mut next, mut page) = (place.map(str::to_owned), 0);
        loop {
            let after = next.map(|place| format!("{joint}after={place}")).unwrap_or_default();
            let began = Instant::now();
            let body = self.get(stream, &format!("{path}{after}")).await?;
            let took = began.elapsed().as_secs_f64() * 1000.0;
            if page == 0 && place.is_none() {
                times.first.push(took);
            } else {
                times.later.push(took);
            }
            page += 1;
            let answer: serde_json::Value = serde_json::from_slice(&body)?;
            match answer["next"].as_str() {
                Some(place) if page <= pages => next = Some(place.to_owned()),
                _ => return Ok(()),
            }
        }
    }

    async fn get(&self, stream: &mut BufReader<TcpStream>, path: &str) -> anyhow::Result<Vec<u8>> {
        let Self { host, token } = self;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (mut status, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "serve closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_empty() {
                status = line;
            } else if let Some(told) = line.strip_prefix("content-length: ") {
                length = told.parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if !status.contains(" 200 ") {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }
}

fn summary(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    // The nearest rank: of twenty the nineteenth.
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    format!("{}|{:.1}|{:.1}", times.len(), at(50).unwrap_or_default(), at(95).unwrap_or_default())
}
