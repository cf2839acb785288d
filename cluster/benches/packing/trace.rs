//! The two lists of the trace.

use std::collections::BTreeMap;
use std::path::Path;

use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentInfo, Bytes, MilliCpus, Resources};

/// Machines and tasks.
pub struct Trace {
    pub machines: Vec<AgentInfo>,
    pub tasks: Vec<ResourceRequest>,
}

impl Trace {
    /// Reads the lists of a folder.
    pub fn read(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let machines = rows(&folder.join("openb_node_list_gpu_node.csv"))?;
        let machines = machines.iter().map(|row| {
            let gpus = 0..number(row, 3)?;
            let resources = Resources {
                cpus: MilliCpus(number(row, 1)?),
                mem: Bytes::mib(number(row, 2)?),
                gpus: gpus.map(|gpu| (format!("gpu{gpu}"), 1000)).collect(),
                ..Resources::default()
            };
            Ok(AgentInfo {
                address: None,
                hostname: row[0].clone(),
                resources,
                attributes: BTreeMap::from([("model".to_owned(), text(row, 4)?)]).into(),
                version: "0".into(),
                full: None,
            })
        });
        let tasks = rows(&folder.join("openb_pod_list_default.csv"))?;
        let tasks = tasks.iter().map(|row| {
            Ok(ResourceRequest {
                cpus: MilliCpus(number(row, 1)?),
                mem: Bytes::mib(number(row, 2)?),
                // Of more than one gpu a task asks for each whole.
                gpus_milli: number(row, 3)? * number(row, 4)?,
                ..ResourceRequest::default()
            })
        });
        Ok(Self {
            machines: machines.collect::<Result<_, String>>()?,
            tasks: tasks.collect::<Result<_, String>>()?,
        })
    }
}

fn rows(path: &Path) -> Result<Vec<Vec<String>>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))?;
    let lines = text.lines().skip(1);
    Ok(lines
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect())
}

fn text(row: &[String], column: usize) -> Result<String, String> {
    let text = row.get(column).cloned();
    text.ok_or_else(|| {
        format!(
            "a row of the trace has no column {column}: {}",
            row.join(",")
        )
    })
}

fn number(row: &[String], column: usize) -> Result<u64, String> {
    let text = text(row, column)?;
    let number = text.parse();
    number.map_err(|_| {
        format!(
            "`{text}` is no number in a row of the trace: {}",
            row.join(",")
        )
    })
}
