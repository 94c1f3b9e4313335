//! The admin's kubeconfig as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::issue::Pair;

/// A name that every master's certificate has: the address of a worker, which passes bytes on, is in
/// none.
const SERVER_NAME: &str = "kubernetes";

/// A kubeconfig of one cluster, one user and one context, everything inline.
pub(super) fn text(cluster: &str, server_url: &str, ca: &str, admin: &Pair) -> String {
    let (ca, certificate, key) =
        (STANDARD.encode(ca), STANDARD.encode(&admin.certificate), STANDARD.encode(&admin.key));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    certificate-authority-data: {ca}
    server: {server_url}
    tls-server-name: {SERVER_NAME}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {cluster}-admin
current-context: {cluster}
preferences: {{}}
users:
- name: {cluster}-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}
