//! Registries that want to know who asks, and mirrors that are down: Debian's docker-registry.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tepui_types::TaskState;
use tepui_types::wire::agent::{StatusReport, TaskLaunch};

use crate::containers::{can_contain, stdout};
use crate::images::{ImageLayout, run};
use crate::master::{FakeMaster, contained, eventually};
use crate::process::AgentProcess;

/// A running registry in a folder of its own.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
}

impl Registry {
    /// With this of its configuration besides, where `DIR` is its folder; `prepare` fills that.
    async fn start(more: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let dir = folder.path().to_str().unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {dir}/storage}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{}\n",
            more.replace("DIR", dir)
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let mut this = Self {
            child,
            folder,
            address: String::new(),
        };
        eventually("the registry listens", || {
            let log = std::fs::read_to_string(this.folder.path().join("log")).unwrap();
            let address = log.split("listening on ").nth(1);
            let address = address.and_then(|rest| rest.split('"').next());
            this.address = address.unwrap_or_default().to_owned();
            !this.address.is_empty()
        })
        .await;
        this
    }

    /// Copies the image there, as skopeo is told to.
    fn push(&self, image: &ImageLayout, flags: &[&str]) {
        run(Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false"])
            .args(flags)
            .arg(format!("oci:{}:shell", image.path().display()))
            .arg(format!("docker://{}/x:1", self.address)));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of_registry(name: &str, registry: &str) -> TaskLaunch {
    contained(name, &format!(r#"{{"image": "{registry}/x:1"}}"#), &[])
}

/// How a task of the registry's image ends on an agent that knows this of its registries, and what it
/// writes.
async fn end_of(registry: &str, settings: &str) -> (StatusReport, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let config = format!("[containers.images]\ninsecure = [\"{registry}\"]\n{settings}\n");
    std::fs::write(&file, config).unwrap();
    let mut master = FakeMaster::start().await;
    let config: &str = file.to_str().unwrap().to_owned().leak();
    let agent = AgentProcess::start_with(&master, vec!["--config", config].leak());
    let mut session = master.session().await;
    let task = of_registry("a", registry);
    session.launch(&task).await;
    let ended = session.until_all(|latest| {
        let report = latest.get(&task.task);
        report.is_some_and(|report| report.state.is_terminal())
    });
    ended.await;
    assert!(
        !agent.log().contains("wrong"),
        "no log shows what is secret"
    );
    (session.latest[&task.task].clone(), stdout(&agent, &task))
}

fn is_unauthorized(end: &StatusReport, registry: &str) {
    let why = end.reason.as_ref().unwrap();
    assert_eq!(
        (end.state, why.code.as_str()),
        (TaskState::Error, "image-unauthorized"),
        "{why}"
    );
    let names = ["username, password or token", registry];
    assert!(names.iter().all(|name| why.message.contains(name)), "{why}");
    assert!(!why.message.contains("wrong"), "{why}");
}

#[tokio::test]
async fn an_image_behind_a_password_is_had_by_who_has_it() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let registry = Registry::start("auth: {htpasswd: {realm: x, path: DIR/users}}", |folder| {
        // `me` and `secret`.
        let users = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
        std::fs::write(folder.join("users"), users).unwrap();
    })
    .await;
    registry.push(&image, &["--dest-creds=me:secret"]);
    let address = &registry.address;
    let with = |password: &str| {
        format!(
            "[containers.images.registries.\"{address}\"]\nusername = \"me\"\npassword = \
             \"{password}\""
        )
    };
    is_unauthorized(&end_of(address, "").await.0, address);
    is_unauthorized(&end_of(address, &with("wrong")).await.0, address);
    let (end, said) = end_of(address, &with("secret")).await;
    assert_eq!(
        (end.state, said.as_str()),
        (TaskState::Finished, "hello\n"),
        "{end:?}"
    );
}

/// A key and its certificate, and a token that it has signed: anybody who has it may pull `x`.
const MAKE_TOKEN: &str = r#"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=tests 2>/dev/null
    base64url() { base64 -w 0 | tr '+/' '-_' | tr -d '='; }
    chain=$(openssl x509 -in cert.pem -outform der | base64 -w 0)
    now=$(date +%s)
    head=$(printf '{"typ":"JWT","alg":"RS256","x5c":["%s"]}' "$chain" | base64url)
    body=$(printf '{"iss":"tests","sub":"me","aud":"images","exp":%d,"nbf":%d,"iat":%d,"jti":"1",
        "access":[{"type":"repository","name":"x","actions":["pull","push"]}]}' \
        $((now + 3600)) $((now - 60)) $((now - 60)) | base64url)
    signature=$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign key.pem | base64url)
    printf '%s.%s.%s' "$head" "$body" "$signature" > token"#;

#[tokio::test]
async fn an_image_behind_a_token_is_had_by_who_has_it() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    // Nobody gives out tokens at that address: who has none gets none.
    let more = "auth: {token: {realm: 'http://127.0.0.1:1/token', service: images, issuer: tests, \
                rootcertbundle: DIR/cert.pem}}";
    let make = |folder: &Path| {
        run(Command::new("sh")
            .args(["-e", "-c", MAKE_TOKEN])
            .current_dir(folder));
    };
    let registry = Registry::start(more, make).await;
    let token = std::fs::read_to_string(registry.folder.path().join("token")).unwrap();
    registry.push(&image, &[&format!("--dest-registry-token={token}")]);
    let address = &registry.address;
    let with =
        |token: &str| format!("[containers.images.registries.\"{address}\"]\ntoken = \"{token}\"");
    let (end, said) = end_of(address, &with(&token)).await;
    assert_eq!(
        (end.state, said.as_str()),
        (TaskState::Finished, "hello\n"),
        "{end:?}"
    );
    is_unauthorized(&end_of(address, &with("wrong")).await.0, address);
}

#[tokio::test]
async fn a_mirror_that_is_down_is_passed_over() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let registry = Registry::start("", |_| {}).await;
    registry.push(&image, &[]);
    let address = &registry.address;
    let absent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = absent.local_addr().unwrap();
    drop(absent);
    let settings =
        format!("[containers.images.registries.\"{address}\"]\nmirrors = [\"{mirror}\"]");
    let (end, said) = end_of(address, &settings).await;
    assert_eq!(
        (end.state, said.as_str()),
        (TaskState::Finished, "hello\n"),
        "{end:?}"
    );
}
