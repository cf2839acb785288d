//! A job that is written down: what the API takes, as JSON.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tepui_types::api::job::JobRequest;

/// The longest that is read: no request to a framework is longer.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads one from a file, or from standard input where that is `-`.
pub fn read(file: &Path) -> Result<JobRequest> {
    let is_stdin = file == Path::new("-");
    let shown = match is_stdin {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    let bytes = match is_stdin {
        true => take(io::stdin().lock()),
        false => File::open(file).and_then(take),
    };
    let bytes = bytes.with_context(|| format!("failed to read {shown}"))?;
    ensure!(
        bytes.len() as u64 <= MAX_BYTES,
        "{shown} is no job: it is longer than 1 MiB"
    );
    parse(&bytes).with_context(|| format!("{shown} is no job"))
}

fn take(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// # Errors
/// Names the field.
fn parse(bytes: &[u8]) -> Result<JobRequest> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let job: JobRequest = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        match path.as_str() {
            // The document itself.
            "." => anyhow::anyhow!("{why}"),
            path => anyhow::anyhow!("`{path}`: {why}"),
        }
    })?;
    json.end().context("something stands behind it")?;
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_usual() {
        let job = parse(br#"{"workload": {"command": {"argv": ["date"]}}}"#).unwrap();
        assert_eq!((job.name, job.count), (None, 1));
    }

    #[test]
    fn the_job_in_the_documents_is_one() {
        let text = include_str!("../../../docs/commands.md");
        let job = text
            .split("```json")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        assert_eq!(parse(job.unwrap().as_bytes()).unwrap().fetch.len(), 1);
    }

    #[test]
    fn errors_name_the_field() {
        for (text, hint) in [
            (
                r#"{"workload": {"command": {"argv": "date"}}}"#,
                "`workload.command.argv`",
            ),
            (
                r#"{"workload": {"command": {"argv": []}}, "count": -1}"#,
                "`count`",
            ),
            (
                r#"{"workload": {"command": {"argv": [], "option": {}}}}"#,
                "`workload.command.option`",
            ),
            (r#"{"name": "x"}"#, "missing field `workload`"),
            (
                r#"{"workload": {"command": {"argv": []}}, "cpu": 1}"#,
                "unknown field `cpu`",
            ),
            (
                r#"{"workload": {"command": {"argv": []}}} {}"#,
                "stands behind it",
            ),
            ("name: x", "line 1 column"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
