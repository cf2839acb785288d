//! Servers with TLS. Whom to trust is the whole process's affair, so a process of its own asks them.

use std::path::Path;
use std::process::Command;

use crate::server::{Answer, Python, Scripted};
use crate::site::{Site, cached, list, run, url};

/// What the process of its own is told: the server with TLS.
const SERVER: &str = "TEPUI_FETCH_TEST_TLS";

/// Sends `/down` out of TLS, and answers everything else.
const SCRIPT: &str = r"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        down = self.path == '/down'
        self.send_response(302 if down else 200)
        if down:
            self.send_header('location', sys.argv[1])
        self.send_header('content-length', '3')
        self.end_headers()
        self.wfile.write(b'abc')
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print('port', server.server_port, '', flush=True)
server.serve_forever()
";

fn make_certificate(folder: &Path) {
    let config = "[req]\ndistinguished_name=name\nx509_extensions=more\nprompt=no\n\
        [name]\nCN=localhost\n\
        [more]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
    std::fs::write(folder.join("config"), config).unwrap();
    let arguments =
        "req -x509 -newkey rsa:2048 -nodes -days 2 -config config -keyout key.pem -out cert.pem";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    run("openssl", folder, &arguments);
}

/// No test by itself: what `nobody_is_led_out_of_tls` runs with a certificate to trust.
#[tokio::test]
async fn process_that_trusts() {
    let Ok(server) = std::env::var(SERVER) else {
        return;
    };
    let site = Site::new().await;
    site.fetch(cached(format!("{server}/a"))).await.unwrap();
    assert_eq!(site.read("a"), "abc");
    let error = site.fetch(url(format!("{server}/down"))).await.unwrap_err();
    assert_eq!(error.code(), "fetch-redirect", "{error}");
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert_eq!(list(&site.sandbox()), ["a"]);
}

#[tokio::test]
async fn nobody_is_led_out_of_tls() {
    let site = Site::new().await;
    make_certificate(&site.path("allowed"));
    let plain = Scripted::start(|_, _| Answer::body("abc")).await;
    let server = Python::script(&site.path("allowed"), SCRIPT, &plain.url("a"), "https");
    // Who is not trusted is not asked for anything.
    let error = site.fetch(url(format!("{}/a", server.url))).await;
    assert_eq!(error.unwrap_err().code(), "fetch-unavailable");
    let asked = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::process_that_trusts"])
        .env(SERVER, &server.url)
        .env("SSL_CERT_FILE", site.path("allowed/cert.pem"))
        .output();
    let asked = asked.unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(
        asked.status.success() && said.contains("1 passed"),
        "{said}"
    );
    assert_eq!(plain.asked(), 0);
}
