//! Where the masters of a local cluster listen: known beforehand, since each is told of the others, and
//! the same as the last time if any will do, since they look for each other there.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tepui_cli::leftovers;

use super::folder;

/// Where `tepui` looks for a master when it is told nothing.
pub const DEFAULT_PORT: u16 = 5050;
/// The folder's note of them.
const FILE: &str = "addresses";

/// Free addresses for so many masters of this folder, which need not be there yet. One in use by
/// another master would take our agents in.
pub fn find(masters: u16, port: Option<u16>, folder: &Path) -> Result<Vec<String>> {
    let known = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let known: Vec<_> = known.lines().map(str::to_owned).collect();
    // One alone may go anywhere.
    if masters == 1 || known.len() != usize::from(masters) {
        return bind(masters, port.unwrap_or(DEFAULT_PORT));
    }
    let is_first = |port: u16| port == 0 || known[0].ends_with(&format!(":{port}"));
    if port.is_some_and(|port| !is_first(port)) {
        bail!(
            "the masters of {} look for each other at {}: leave --port out, or name another folder \
             with --dir",
            folder.display(),
            known.join(", ")
        );
    }
    for address in &known {
        TcpListener::bind(address).with_context(|| {
            format!(
                "{address} is not free, where a master of this folder was{}",
                neighbour(address).map_or_else(String::new, |who| format!(": {who}"))
            )
        })?;
    }
    Ok(known)
}

/// Notes them for the next time.
pub fn remember(addresses: &[String], folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    std::fs::write(&path, addresses.join("\n"))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn bind(masters: u16, port: u16) -> Result<Vec<String>> {
    let mut bound = Vec::new();
    for number in 0..masters {
        let port = match port {
            0 => 0,
            port => port.checked_add(number).with_context(|| {
                format!(
                    "{masters} masters have no ports from {port} on: give a lower one with --port"
                )
            })?,
        };
        // All are held until each has its own.
        bound.push(TcpListener::bind(("127.0.0.1", port)).with_context(|| taken(port))?);
    }
    let addresses = bound.iter().map(|listener| listener.local_addr());
    let addresses = addresses.collect::<std::io::Result<Vec<_>>>()?;
    Ok(addresses.iter().map(ToString::to_string).collect())
}

fn taken(port: u16) -> String {
    let hint = "give another with --port, or --port 0 for any";
    match neighbour(&format!("127.0.0.1:{port}")) {
        Some(who) => format!("port {port} is not free: {who}, or {hint}"),
        None => format!("port {port} is not free: {hint}"),
    }
}

/// Who listens there, if that is the master of another folder, and how it is stopped.
fn neighbour(address: &str) -> Option<String> {
    let (pid, dir) = leftovers::master_at(address)?;
    let folder = dir.parent().filter(|parent| folder::is_one(parent))?;
    let shown = folder.display();
    Some(format!(
        "the cluster of {shown} is there (its master is process {pid}); stop it with `tepui dev --stop \
         --dir {shown}`"
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_cluster_that_has_a_port_is_named_with_what_stops_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("other");
        folder::Folder::open(&folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut master = Command::new("sh")
            .arg0("/somewhere/tepui-master")
            .args(["-c", "echo; read line", "_", "--dir"])
            .arg(folder.join("master"))
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Before it executes that, it has no command line yet.
        let said = master.stdout.as_mut().unwrap();
        said.read_exact(&mut [0]).unwrap();
        let error = find(1, Some(address.port()), parent.path()).unwrap_err();
        let stop = format!("tepui dev --stop --dir {}", folder.display());
        master.kill().unwrap();
        master.wait().unwrap();
        assert!(error.to_string().contains(&stop), "{error}");
        let error = find(1, Some(address.port()), parent.path()).unwrap_err();
        assert!(!error.to_string().contains("--stop"), "{error}");
    }
}
