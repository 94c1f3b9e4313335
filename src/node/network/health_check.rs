//! Says on each `healthCheckNodePort` whether this board has endpoints of the service, so that a load
//! balancer in front sends only to boards that do (`externalTrafficPolicy: Local`).
//!
//! The answer is kube-proxy's: 200 with endpoints, 503 without, and a small JSON document. A port that
//! cannot be listened on is told once and tried again with the next change.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::limits::{
    HEALTH_CHECK_CONNECTIONS_MAX, HEALTH_CHECK_PORTS_MAX, HEALTH_CHECK_SECONDS_MAX,
};
use model::network::{NetService, NetState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

/// After a failed `accept`, so that a lack of descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a service says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Health {
    namespace: String,
    name: String,
    endpoints: usize,
}

/// A port that is listened on.
struct Port {
    health: watch::Sender<Health>,
    task: AbortHandle,
}

/// Runs until `state` closes.
pub async fn run(board: String, mut state: watch::Receiver<Arc<NetState>>) {
    let places = Arc::new(Semaphore::new(HEALTH_CHECK_CONNECTIONS_MAX));
    let mut tasks = JoinSet::new();
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    loop {
        let wanted = wanted(&state.borrow_and_update(), &board);
        ports.retain(|number, port| {
            let stays = wanted.contains_key(number);
            if !stays {
                port.task.abort();
            }
            stays
        });
        for (number, health) in wanted {
            if let Some(port) = ports.get(&number) {
                port.health.send_if_modified(|known| {
                    let changed = *known != health;
                    *known = health;
                    changed
                });
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).await {
                Ok(listener) => {
                    let (health, told) = watch::channel(health);
                    let task = tasks.spawn(listen(listener, told, Arc::clone(&places)));
                    ports.insert(number, Port { health, task });
                }
                Err(error) => {
                    tracing::warn!(%error, port = number, "a health check port cannot be opened");
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn wanted(state: &NetState, board: &str) -> BTreeMap<u16, Health> {
    let services = state.services.values();
    let checked = services.filter(|s| s.external_local && s.health_check_node_port != 0);
    checked
        .take(HEALTH_CHECK_PORTS_MAX)
        .map(|service| (service.health_check_node_port, health(service, board)))
        .collect()
}

fn health(service: &NetService, board: &str) -> Health {
    let here = service.endpoints.iter().filter(|endpoint| endpoint.board == board);
    let ready = here.filter(|endpoint| endpoint.ready || service.publish_not_ready);
    Health {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        endpoints: ready.count(),
    }
}

async fn listen(listener: TcpListener, health: watch::Receiver<Health>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                connections.spawn(async move {
                    answer(stream, health).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, health: watch::Receiver<Health>) {
    let service = service_fn(|_: Request<Incoming>| {
        let response = response(&health.borrow());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let limit = Duration::from_secs(HEALTH_CHECK_SECONDS_MAX);
    // Whoever asked has its answer, or has gone: there is nobody to tell.
    let _ended = tokio::time::timeout(limit, connection).await;
}

fn response(health: &Health) -> Response<Full<Bytes>> {
    let Health { namespace, name, endpoints } = health;
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    if *endpoints == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use model::network::NetEndpoint;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: board\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    async fn until(port: u16, expected: impl Fn(Option<&str>) -> bool) {
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let answer = ask(port).await;
            if expected(answer.as_deref()) {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_board_with_endpoints_is_healthy_and_one_without_is_not() {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let state = |board: Option<&str>| {
            let endpoints = board.into_iter().map(|board| NetEndpoint {
                board: board.to_owned(),
                ready: true,
                ..NetEndpoint::default()
            });
            let service = NetService {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                external_local: true,
                health_check_node_port: port,
                endpoints: endpoints.collect(),
                ..NetService::default()
            };
            let services = [(service.key().into(), Arc::new(service))];
            Arc::new(NetState { services: services.into(), ..NetState::default() })
        };
        let (told, known) = watch::channel(state(Some("here")));
        let running = tokio::spawn(run("here".to_owned(), known));
        let healthy = |answer: &str| {
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"localEndpoints\":1")
        };
        until(port, |answer| answer.is_some_and(healthy)).await;
        told.send_replace(state(Some("there")));
        until(port, |answer| answer.is_some_and(|a| a.starts_with("HTTP/1.1 503"))).await;
        told.send_replace(Arc::default());
        until(port, |answer| answer.is_none()).await;
        drop(told);
        running.await.expect("ends with its channel");
    }
}
