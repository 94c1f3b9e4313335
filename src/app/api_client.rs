//! A small client of the public API, for the demo: HTTPS with the admin's certificate.
//!
//! One connection per request; it reads the kubeconfig that `kumquat kubeconfig` prints.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::limits::REQUEST_BODY_BYTES_MAX;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Talks to one API server.
pub struct ApiClient {
    host: String,
    port: u16,
    /// Whose certificate it must be.
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl ApiClient {
    /// From the text of a kubeconfig; `server` stands in for the one in it.
    ///
    /// # Errors
    /// The text is not a kubeconfig with embedded certificates.
    pub fn from_kubeconfig(text: &str, server: Option<&str>) -> Result<Self> {
        let config: Value = serde_norway::from_str(text).context("kubeconfig")?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let pem = |value: &Value| -> Result<Vec<u8>> {
            STANDARD
                .decode(value.as_str().context("kubeconfig lacks a certificate")?)
                .map_err(Into::into)
        };
        let uri: Uri = server
            .or_else(|| cluster["server"].as_str())
            .context("kubeconfig has no server")?
            .parse()?;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])?)?)?;
        let certificates = CertificateDer::pem_slice_iter(&pem(&user["client-certificate-data"])?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key)?;
        let host = uri.host().context("server has no host")?.to_owned();
        let name = cluster["tls-server-name"].as_str().unwrap_or(&host).to_owned();
        Ok(Self {
            host,
            name: name.try_into()?,
            port: uri.port_u16().unwrap_or(443),
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let host = http::HeaderValue::from_str(&self.host)?;
        request.headers_mut().insert(http::header::HOST, host);
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = body_of(response).await?;
        let message = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|value| value["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        bail!("{status}: {message}")
    }

    /// Sends a request with a JSON answer.
    ///
    /// # Errors
    /// The connection fails, or the server refuses: then its words.
    pub async fn json(&self, request: Request<Full<Bytes>>) -> Result<Value> {
        Ok(serde_json::from_slice(&body_of(self.send(request).await?).await?)?)
    }

    /// GETs an answer that comes bit by bit.
    ///
    /// # Errors
    /// As [`ApiClient::json`].
    pub async fn stream(&self, uri: &str) -> Result<Incoming> {
        let request = Request::builder().method(Method::GET).uri(uri).body(Full::default())?;
        Ok(self.send(request).await?.into_body())
    }
}

async fn body_of(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), REQUEST_BODY_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}
