//! What the control socket answers: status, kubeconfig, images.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::addresses::Addresses;
use super::identity::Identity;
use super::version;
use crate::io::control::{
    Body, Handler, PieceReader, PieceWriter, bytes_body, json as answer, stream_body,
};
use crate::io::image::{ImageError, ImageStore};
use crate::io::tls::Pki;
use crate::master::registry::{ListQuery, Registry};

/// What the answers are made from.
pub(super) struct Control {
    /// This board.
    pub(super) identity: Identity,
    /// The objects.
    pub(super) registry: Registry,
    /// The images.
    pub(super) images: ImageStore,
    /// Signs the admin's certificate.
    pub(super) pki: Arc<Pki>,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Port of the API.
    pub(super) api_port: u16,
    /// Epoch and term in which this board leads.
    pub(super) epoch: u64,
    /// See `epoch`.
    pub(super) term: u64,
}

impl Handler for Control {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            match (request.method().clone(), path.as_str()) {
                (Method::GET, "/v1/status") => self.status(),
                (Method::GET, "/v1/kubeconfig") => self.kubeconfig(&request),
                (Method::GET, "/v1/images") => answer(StatusCode::OK, &self.images()),
                (Method::POST, "/v1/images") => self.import(request).await,
                (Method::DELETE, "/v1/images") => self.remove_image(&request).await,
                (Method::GET, "/v1/images/export") => self.export(&request),
                _ => refusal(StatusCode::NOT_FOUND, "this board does not know that request"),
            }
        })
    }
}

impl Control {
    fn status(&self) -> Response<Body> {
        let Some(nodes) = model::resource::find("", "v1", "nodes") else {
            return refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "nodes are not in the resource table",
            );
        };
        let listed = match self.registry.list(&ListQuery::all(nodes, None)) {
            Ok(listed) => listed,
            Err(error) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.message),
        };
        let nodes: Vec<Value> = listed
            .items
            .iter()
            .filter_map(|item| serde_json::from_slice(&item.json()).ok())
            .collect();
        let boards: Vec<Value> = nodes.iter().map(|node| self.board(node)).collect();
        let warnings: Vec<Value> = nodes.iter().flat_map(warnings).collect();
        let status = json!({
            "cluster": self.identity.cluster, "epoch": self.epoch, "term": self.term,
            "leader": self.identity.name, "boards": boards, "voters": [self.identity.name],
            "warnings": warnings,
        });
        answer(StatusCode::OK, &status)
    }

    fn board(&self, node: &Value) -> Value {
        let name = &node["metadata"]["name"];
        let address = node["status"]["addresses"]
            .as_array()
            .and_then(|all| all.iter().find(|address| address["type"] == "InternalIP"))
            .map_or(Value::Null, |address| address["address"].clone());
        let role = if *name == self.identity.name { "master" } else { "worker" };
        let kubelet = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
        json!({
            "name": name, "address": address, "role": role, "ready": is_ready(node),
            "version": kubelet.rsplit("kumquat.").next().unwrap_or_default(),
        })
    }

    fn kubeconfig(&self, request: &Request<Incoming>) -> Response<Body> {
        let own = format!("https://{}:{}", self.addresses.borrow().own, self.api_port);
        let server = query(request, "server").unwrap_or(own);
        if !is_server_url(&server) {
            let text = "that is no URL of an API server: write https://ADDRESS:6443";
            return refusal(StatusCode::BAD_REQUEST, text);
        }
        let text = self.pki.admin_kubeconfig(&self.identity.cluster, &server);
        Response::new(bytes_body(text))
    }

    fn images(&self) -> Value {
        let rows = self.images.list().into_iter().flat_map(|image| {
            let row = json!({
                "digest": image.digest.to_string(), "id": image.id.to_string(),
                "size": image.bytes, "platform": format!("linux/{}", image.architecture),
            });
            image.names.into_iter().map(move |name| {
                let mut row = row.clone();
                row["name"] = name.into();
                row
            })
        });
        rows.collect()
    }

    async fn import(&self, request: Request<Incoming>) -> Response<Body> {
        let images = self.images.clone();
        let reader = PieceReader::new(request.into_body());
        let imported = tokio::task::spawn_blocking(move || images.import(reader, None)).await;
        match imported {
            Ok(Ok(names)) => {
                let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                answer(StatusCode::OK, &json!(names))
            }
            Ok(Err(error)) => image_refusal(&error),
            Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    async fn remove_image(&self, request: &Request<Incoming>) -> Response<Body> {
        let Some(name) = query(request, "name") else {
            return refusal(StatusCode::BAD_REQUEST, "which image?");
        };
        let images = self.images.clone();
        match tokio::task::spawn_blocking(move || images.remove(&name)).await {
            Ok(Ok(())) => answer(StatusCode::OK, &json!({})),
            Ok(Err(error)) => image_refusal(&error),
            Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    fn export(&self, request: &Request<Incoming>) -> Response<Body> {
        let Some(name) = query(request, "name") else {
            return refusal(StatusCode::BAD_REQUEST, "which image?");
        };
        if let Err(error) = self.images.resolve(&name) {
            return image_refusal(&error);
        }
        let images = self.images.clone();
        let (mut writer, pieces) = PieceWriter::new();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = images.export(&name, &mut writer) {
                writer.fail(std::io::Error::other(error.text()));
            }
        });
        Response::new(stream_body(pieces))
    }
}

/// A URL that may stand in a kubeconfig as it is.
fn is_server_url(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&byte);
    text.bytes().all(plain)
        && text.parse::<http::Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
        })
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Conditions of a node that a person should act on; Ready says its own part.
fn warnings(node: &Value) -> Vec<Value> {
    let name = &node["metadata"]["name"];
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .filter(|condition| (condition["type"] == "Ready") == (condition["status"] == "False"))
        .filter(|condition| condition["type"] == "Ready" || condition["status"] == "True")
        .map(|condition| {
            json!({
                "board": name, "reason": condition["reason"],
                "remedy": condition["message"],
            })
        })
        .collect()
}

fn image_refusal(error: &ImageError) -> Response<Body> {
    let status = match error {
        ImageError::Absent(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    refusal(status, &error.text())
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, &json!({"message": message, "version": version::TEXT}))
}

/// A value of the query string, unescaped.
fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for fine in ["https://10.0.0.1:6443", "https://pi-1.local", "https://[fd00::1]:6443/a"] {
            assert!(is_server_url(fine), "{fine}");
        }
        for bad in
            ["", "http://a", "https://", "https://a b", "https://a\nusers: []", "\"evil", "a:1"]
        {
            assert!(!is_server_url(bad), "{bad}");
        }
    }
}
