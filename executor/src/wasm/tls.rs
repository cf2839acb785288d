//! TLS to the servers that guests ask, which prove themselves to the machine's own certificates.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

/// What the machine trusts, read once: some hundred certificates.
static TRUSTED: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();

/// Makes sure that who is at the other end of `stream` is `host`.
pub async fn connect(host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
    let trusted = TRUSTED.get_or_try_init(|| async {
        let roots = tokio::task::spawn_blocking(machine_roots).await;
        trusting(roots.map_err(|error| Error::InternalError(Some(error.to_string())))?)
    });
    connect_trusting(trusted.await?.clone(), host, stream).await
}

async fn connect_trusting(
    trusted: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(name).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connected = TlsConnector::from(trusted).connect(name, stream).await;
    connected.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        }
    })
}

fn trusting(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::InternalError(Some(error.to_string())))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Nobody is trusted where there are none.
fn machine_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the machine's certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(good, bad, "the machine's certificates");
    roots
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// What becomes of a connection to a server of that name, as `host`, if it is trusted.
    async fn outcome(name: &str, host: &str, is_trusted: bool) -> Result<String, Error> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"proven").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let mut roots = RootCertStore::empty();
        if is_trusted {
            roots.add(cert.der().clone()).unwrap();
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connect_trusting(trusting(roots)?, host, stream).await?;
        let mut words = String::new();
        stream.read_to_string(&mut words).await.unwrap();
        Ok(words)
    }

    #[tokio::test]
    async fn a_server_proves_its_name_to_who_trusts_its_certificate() {
        assert_eq!(
            outcome("db.example", "db.example", true).await.unwrap(),
            "proven"
        );
        for (host, is_trusted) in [("other.example", true), ("db.example", false)] {
            let error = outcome("db.example", host, is_trusted).await.unwrap_err();
            assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
        }
    }
}
