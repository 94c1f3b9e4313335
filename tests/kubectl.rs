//! kubectl 1.27 to 1.33 against the API server: one transcript, equal for all but where it says.
//!
//! Twice: on an API server alone, and on a real board whose containers run.

#[path = "harness/api.rs"]
mod api;
#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/kubectl.rs"]
mod kubectl;
mod kubectl_board;

use std::path::{Path, PathBuf};

use api::Server;
use board::{Board, possible, text};
use kubectl::{Kubectl, Transcript};

const CONFIG_MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {app: web}
data:
  color: red
";

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: main
        image: example.com/web:v1
        ports:
        - containerPort: 8080
        env:
        - name: COLOR
          value: red
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - port: 80
    targetPort: 8080
";

const NODE: &str = "apiVersion: v1
kind: Node
metadata:
  name: board-1
";

const EVENT: &str = "apiVersion: v1
kind: Event
metadata:
  name: web.1
type: Warning
reason: Tested
message: something happened
involvedObject: {kind: Deployment, name: web, namespace: demo}
firstTimestamp: 2020-01-01T00:00:00Z
lastTimestamp: 2020-01-01T00:00:00Z
count: 1
source: {component: test}
";

/// Every promised verb that needs no controller.
fn scenario(kubectl: &Kubectl) -> Transcript {
    let mut transcript = Transcript::default();
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("api-versions");
    run("api-resources");
    run("create namespace demo");
    run("config set-context --current --namespace=demo");
    run("create configmap typed --from-literal=a=1 --from-literal=b=2");
    run("create secret generic hidden --from-literal=password=secret");
    run("create serviceaccount robot");
    run("create deployment typed --image=example.com/typed:v1 --replicas=3 --port=8080");
    run("create service clusterip typed --tcp=80:8080");
    run("create configmap typed --from-literal=a=1");
    let mut with = |command: &str, input: &str| transcript.run_with(kubectl, command, input);
    with("create -f -", CONFIG_MAP);
    with("create -f -", CONFIG_MAP);
    with("apply -f -", DEPLOYMENT);
    with("apply -f -", DEPLOYMENT);
    with(
        "apply -f -",
        &DEPLOYMENT.replace("web:v1", "web:v2").replace("value: red", "value: blue"),
    );
    with("apply -f - --dry-run=server", &DEPLOYMENT.replace("replicas: 2", "replicas: 9"));
    with("apply -f -", &CONFIG_MAP.replace("\ndata:", "\ndato:"));
    with(
        "create -f - --validate=false",
        &CONFIG_MAP.replace("settings", "loose").replace("\ndata:", "\ndato:"),
    );
    with("apply -f -", &DEPLOYMENT.replace("example.com/web:v1", "''"));
    with("replace -f -", &CONFIG_MAP.replace("red", "green"));
    with("create -f -", NODE);
    with("create -f -", EVENT);
    access(kubectl, &mut transcript);
    read(kubectl, &mut transcript);
    change(kubectl, &mut transcript);
    watch(kubectl, &mut transcript);
    remove(kubectl, &mut transcript);
    transcript
}

/// Roles, and what one may.
fn access(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    let robot = "--as=system:serviceaccount:demo:robot";
    run("create role reader --verb=get,list --resource=pods");
    run("create rolebinding reader --role=reader --serviceaccount=demo:robot");
    run("get rolebindings -o wide");
    run("describe role reader");
    run("auth can-i create deployments");
    run(&format!("auth can-i list pods {robot}"));
    run(&format!("auth can-i delete pods {robot}"));
    run(&format!("auth can-i --list {robot}"));
    run(&format!("get pods {robot}"));
    run(&format!("get secrets {robot}"));
}

fn read(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("get configmaps");
    run("get configmap settings -o yaml");
    run("get configmap settings -o json");
    run("get configmap settings -o jsonpath={.data.color}");
    run("get configmaps -l app=web -o name");
    run("get configmaps --field-selector metadata.name=settings");
    run("get deployments -o wide");
    run("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}");
    run("get services,serviceaccounts,secrets -o wide");
    run("get all");
    run("get nodes -o wide");
    run("get namespaces");
    run("get events");
    run("events");
    run("get configmap none");
    run("get nonsense");
    run("describe configmap settings");
    run("describe deployment web");
    run("describe service web");
    run("describe node board-1");
    run("explain deployment.spec.strategy");
    run("explain pod.spec.containers.ports");
    run("rollout history deployment/web");
    run("get --raw /readyz");
}

fn change(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("label configmap settings tier=front");
    run("label configmap settings tier=back");
    run("label configmap settings tier=back --overwrite");
    run("annotate configmap settings note=hello");
    run("annotate configmap settings note-");
    run("scale deployment web --replicas=5");
    run("scale deployment web --replicas=6 --current-replicas=4");
    run("get deployment web -o jsonpath={.spec.replicas}");
    run("set image deployment/web main=example.com/web:v3");
    run(
        "patch deployment web -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"main\",\"env\":[{\"name\":\"SIZE\",\"value\":\"big\"}]}]}}}}'",
    );
    run("patch deployment web --type=merge -p '{\"metadata\":{\"labels\":{\"merged\":\"yes\"}}}'");
    run(
        "patch deployment web --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]'",
    );
    run(
        "patch deployment web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":7}]'",
    );
    run(
        "get deployment web -o jsonpath={.spec.replicas}{.metadata.labels}{.spec.template.spec.containers[0].env}",
    );
    run("cordon board-1");
    run("get nodes");
    run("uncordon board-1");
    run("taint nodes board-1 key=value:NoSchedule");
    run("rollout pause deployment/web");
    run("rollout resume deployment/web");
    run("rollout restart deployment/none");
    run("expose deployment typed --name=exposed --port=81");
    run("run single --image=example.com/single:v1");
    run("get pod single");
    run("describe pod single");
    run("logs single");
    run("exec single -- ls");
}

fn watch(kubectl: &Kubectl, transcript: &mut Transcript) {
    let command = "get configmaps typed -w --output-watch-events";
    let followed = kubectl.follow(&command.split(' ').collect::<Vec<_>>());
    let mut lines = vec![followed.line(), followed.line()];
    transcript.run(kubectl, "label configmap typed watched=yes");
    lines.push(followed.line());
    transcript.run(kubectl, "delete configmap typed");
    lines.push(followed.line());
    transcript.note(command, &lines.join("\n"));
}

fn remove(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run_with(kubectl, "delete -f -", DEPLOYMENT);
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("delete configmap settings loose --now");
    run("delete configmap settings --ignore-not-found");
    run("delete pod single --force --grace-period=0");
    run("delete deployments --all");
    run("delete configmaps --all");
    run("delete node board-1");
    run("delete namespace kube-system");
    run("get all");
}

#[tokio::test(flavor = "multi_thread")]
async fn transcript_of_every_version() {
    let mut transcripts = Vec::new();
    for (minor, program) in kubectl::programs() {
        let server = Server::start().await;
        let kubectl = Kubectl::new(minor, program, &server.kubeconfig(), server.folder());
        let told = tokio::task::spawn_blocking(move || scenario(&kubectl));
        transcripts.push((minor, told.await.expect("scenario")));
        drop(server);
    }
    if transcripts.len() < kubectl::MINORS.len() {
        println!("not run: the transcript is compared only where all versions are");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubectl/transcript.txt");
    kubectl::compare(&path, &kubectl::merge(&transcripts));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_told() {
    for (minor, program) in kubectl::programs() {
        let server = Server::start().await;
        let kubectl = Kubectl::new(minor, program, &server.kubeconfig(), server.folder());
        let text = kubectl.run(&["version"]);
        assert!(text.contains("Server Version"), "{text}");
        assert!(text.contains("v1.36.2+kumquat."), "{text}");
    }
}

#[test]
fn transcript_of_every_version_on_a_board() {
    if !possible("kubectl on a board") || !busybox::present("kubectl on a board") {
        return;
    }
    let programs = kubectl::programs();
    let all = programs.len() == kubectl::MINORS.len();
    let told = programs
        .into_iter()
        .map(|(minor, program)| std::thread::spawn(move || (minor, on_a_board(minor, program))));
    let threads: Vec<_> = told.collect();
    let transcripts: Vec<_> = threads.into_iter().map(|it| it.join().expect("scenario")).collect();
    if !all {
        println!("not run: the transcript is compared only where all versions are");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubectl/board.txt");
    kubectl::compare(&path, &kubectl::merge(&transcripts));
}

fn on_a_board(minor: u8, program: PathBuf) -> Transcript {
    let mut board = Board::new(&format!("kubectl{minor}"));
    board.up(&[]);
    let folder = board.data_dir().parent().expect("the board's folder").to_owned();
    for name in [busybox::IMAGE, kubectl_board::IMAGE_2] {
        let archive = busybox::archive_as(&folder, name);
        let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
        assert!(imported.status.success(), "{}", text(&imported));
    }
    let kubectl = Kubectl::new(minor, program, &board.kubeconfig(), &folder);
    let told = kubectl_board::scenario(&kubectl.inside(board.namespace()));
    board.stop();
    let log = board.log();
    assert!(log.trim_end().ends_with("stopped"), "{log}");
    assert!(!log.contains("did not stop cleanly"), "{log}");
    told
}
