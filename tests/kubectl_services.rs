//! What people type about services: endpoints, load balancers, policies, budgets and drains.
//!
//! The controllers of a master run behind a real API server; the two boards and what they say of
//! their pods are written by kubectl itself, so that every answer is the same on every machine.

#[path = "harness/api.rs"]
mod api;
#[path = "harness/kubectl.rs"]
mod kubectl;

use std::path::Path;

use api::Server;
use kubectl::{Kubectl, Transcript};

fn node(number: u8) -> String {
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: board-{number}
  labels: {{topology.kubernetes.io/zone: attic}}
status:
  capacity: {{cpu: '4', memory: 1Gi, pods: '110'}}
  addresses:
  - {{type: InternalIP, address: 192.168.7.{number}}}
  conditions:
  - {{type: Ready, status: 'True', reason: KubeletReady, message: fine}}
---
"
    )
}

fn pod(number: u8, board: u8) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: web-{number}
  labels: {{app: web}}
spec:
  nodeName: board-{board}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: example.com/web:v1
    ports:
    - {{name: http, containerPort: 8080}}
---
"
    )
}

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {team: shop}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: v1
kind: Service
metadata:
  name: headless
spec:
  clusterIP: None
  selector: {app: web}
  ports:
  - {port: 8080}
---
apiVersion: v1
kind: Service
metadata:
  name: outside
spec:
  type: ExternalName
  externalName: example.com
---
apiVersion: v1
kind: Service
metadata:
  name: sticky
spec:
  type: LoadBalancer
  selector: {app: web}
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  healthCheckNodePort: 30999
  ports:
  - {name: http, port: 80, nodePort: 30080, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30053}
---
apiVersion: v1
kind: Service
metadata:
  name: printer
spec:
  ports:
  - {port: 9100}
---
apiVersion: v1
kind: Endpoints
metadata:
  name: printer
subsets:
- addresses: [{ip: 192.168.7.99}]
  ports: [{port: 9100}]
";

const LATE: &str = "apiVersion: v1
kind: Service
metadata:
  name: late
spec:
  type: LoadBalancer
  selector: {app: none}
  ports:
  - {port: 80, nodePort: 30081}
";

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - namespaceSelector: {}
      podSelector: {matchLabels: {app: shop}}
    - ipBlock: {cidr: 192.168.0.0/16, except: [192.168.9.0/24]}
    ports:
    - {port: 8000, endPort: 8080}
  egress:
  - {}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: closed
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
";

const BAD_POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: bad
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock: {cidr: 192.168.0.0/16, except: [10.0.0.0/8]}
      podSelector: {}
    - {}
    ports:
    - {port: http, endPort: 9}
    - {protocol: ICMP}
";

const BUDGET: &str = "apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: web
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
";

/// What a board would say of a pod that runs.
fn status(pod: u8, ready: &str) -> String {
    format!(
        "patch pod web-{pod} --subresource=status --type=merge -p '{{\"status\":{{\
         \"phase\":\"Running\",\"podIP\":\"10.88.7.{}\",\"podIPs\":[{{\"ip\":\"10.88.7.{}\"}}],\
         \"conditions\":[{{\"type\":\"Ready\",\"status\":\"{ready}\"}}]}}}}'",
        pod + 2,
        pod + 2
    )
}

fn scenario(kubectl: &Kubectl) -> Transcript {
    let mut transcript = Transcript::default();
    transcript.run_with(kubectl, "create -f -", &[node(1), node(2)].concat());
    transcript.until(kubectl, "get nodes -o jsonpath={range.items[*]}{.spec.podCIDRs}{end}", "][");
    transcript.run(kubectl, "create namespace demo");
    transcript.run(kubectl, "config set-context --current --namespace=demo");
    transcript.run_with(kubectl, "create -f -", &[pod(0, 1), pod(1, 2)].concat());
    transcript.run_with(kubectl, "apply -f -", SERVICES);
    transcript.run(kubectl, &status(0, "True"));
    transcript.run(kubectl, &status(1, "False"));
    transcript.until(kubectl, "get endpoints sticky", "10.88.7.2:8080");
    transcript.run(kubectl, &status(1, "True"));
    transcript.until(kubectl, "get endpoints web headless printer", "10.88.7.3:8080");
    transcript.until(kubectl, "get service sticky", "192.168.7.1,192.168.7.2");
    transcript.run_with(kubectl, "apply -f -", LATE);
    transcript.until(kubectl, "describe service late", "SyncLoadBalancerFailed");
    transcript.run(kubectl, "get services -o wide");
    transcript.run(kubectl, "get endpointslices");
    show(kubectl, &mut transcript);
    change(kubectl, &mut transcript);
    drain(kubectl, &mut transcript);
    transcript
}

fn show(kubectl: &Kubectl, transcript: &mut Transcript) {
    let slice = "get endpointslices -l kubernetes.io/service-name=web -o";
    let mut run = |command: &str| transcript.run(kubectl, command);
    run(&format!("{slice} jsonpath={{.items[0].endpoints[*].conditions}}"));
    run(&format!("{slice} jsonpath={{.items[0].endpoints[*].zone}}{{.items[0].ports}}"));
    run(&format!("{slice} jsonpath={{.items[0].metadata.labels}}"));
    run("get endpoints web -o jsonpath={.subsets[0].ports}{.metadata.labels}");
    run("describe service web");
    run("describe service sticky");
    run("describe service outside");
    run("describe endpoints web");
    run("get service sticky -o jsonpath={.spec.sessionAffinityConfig}{.spec.healthCheckNodePort}");
}

fn change(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run(
        "expose pod web-0 --name=exposed --port=81 --target-port=8080 --type=NodePort --dry-run=server",
    );
    run("expose pod web-0 --name=exposed --port=81 --target-port=8080");
    run("patch service web -p '{\"spec\":{\"clusterIP\":\"10.43.9.9\"}}'");
    run("patch service sticky -p '{\"spec\":{\"type\":\"ClusterIP\"}}'");
    run("get service sticky");
    run("get service sticky -o jsonpath={.spec.ports}{.spec.healthCheckNodePort}{.status}");
    transcript.until(kubectl, "get service late", "192.168.7.1,192.168.7.2");
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("patch service web -p '{\"spec\":{\"ipFamilyPolicy\":\"RequireDualStack\"}}'");
    run("patch service web -p '{\"spec\":{\"ipFamilyPolicy\":\"PreferDualStack\"}}'");
    run("get service web -o jsonpath={.spec.ipFamilyPolicy}{.spec.ipFamilies}");
    run("delete service printer");
    run("get endpoints printer");
    let mut with = |command: &str, input: &str| transcript.run_with(kubectl, command, input);
    with("create -f -", POLICY);
    with("create -f -", BAD_POLICY);
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("get networkpolicies");
    run("get netpol web -o yaml");
    run("describe networkpolicy web");
}

fn drain(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run_with(kubectl, "create -f -", BUDGET);
    transcript.until(kubectl, "get poddisruptionbudgets", "  1  ");
    transcript.run(kubectl, "describe pdb web");
    transcript.run(kubectl, "drain board-1 --force --timeout=30s");
    transcript.until(kubectl, "get pdb web -o jsonpath={.status.disruptionsAllowed}", "0");
    transcript.until(kubectl, "get endpoints web", "10.88.7.3:8080");
    transcript.run(kubectl, "drain board-2 --force --timeout=2s");
    transcript.run(kubectl, "get pods");
    transcript.run(kubectl, "delete pdb web");
    transcript.run(kubectl, "drain board-2 --force --timeout=30s");
    transcript.until(kubectl, "get endpoints web", "<none>");
    transcript.run(kubectl, "get nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn transcript_of_every_version() {
    let mut transcripts = Vec::new();
    for (minor, program) in kubectl::programs() {
        let server = Server::with_controllers().await;
        let kubectl = Kubectl::new(minor, program, &server.kubeconfig(), server.folder());
        let told = tokio::task::spawn_blocking(move || scenario(&kubectl));
        transcripts.push((minor, told.await.expect("scenario")));
        drop(server);
    }
    if transcripts.len() < kubectl::MINORS.len() {
        println!("not run: the transcript is compared only where all versions are");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubectl/services.txt");
    kubectl::compare(&path, &kubectl::merge(&transcripts));
}
