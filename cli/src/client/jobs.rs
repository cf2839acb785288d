//! What a framework like `batch` is asked: jobs.

use reqwest::Method;
use serde::Deserialize;
use tepui_types::api::job::{JobRequest, JobView};

use super::calls::{encode, with_query};
use super::{Client, Result};

/// The framework that every cluster has.
pub const BATCH: &str = "batch";

/// The jobs of one framework.
pub struct Jobs<'a> {
    client: &'a Client,
    framework: &'a str,
}

/// One page of jobs.
#[derive(Deserialize)]
struct JobPage {
    items: Vec<JobView>,
    next: Option<String>,
}

impl Client {
    /// The jobs of this framework, which takes them as `batch` does.
    pub fn jobs_of<'a>(&'a self, framework: &'a str) -> Jobs<'a> {
        let client = self;
        Jobs { client, framework }
    }
}

impl Jobs<'_> {
    /// Whose they are.
    pub fn framework(&self) -> &str {
        self.framework
    }

    /// Who is asked.
    pub fn client(&self) -> &Client {
        self.client
    }

    /// Hands a job over.
    pub async fn submit(&self, job: &JobRequest) -> Result<JobView> {
        let path = self.path();
        self.client.change(Method::POST, &path, Some(job)).await
    }

    /// All that the framework remembers.
    pub async fn list(&self) -> Result<Vec<JobView>> {
        let mut jobs = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let query: Vec<_> = after
                .take()
                .map(|name| ("after", name))
                .into_iter()
                .collect();
            let page: JobPage = self.client.get(&with_query(&self.path(), &query)).await?;
            jobs.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(jobs),
            }
        }
    }

    /// One job.
    pub async fn get(&self, name: &str) -> Result<JobView> {
        self.client.get(&self.path_of(name)).await
    }

    /// Asks for the end of a job.
    pub async fn kill(&self, name: &str) -> Result<JobView> {
        let path = self.path_of(name);
        self.client.change(Method::DELETE, &path, None::<&()>).await
    }

    fn path(&self) -> String {
        format!("/frameworks/{}/jobs", encode(self.framework))
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{}", self.path(), encode(name))
    }
}
