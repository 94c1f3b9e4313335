//! The scenario that needs a real board: what people type at a cluster whose containers run.

use std::time::{Duration, Instant};

use super::kubectl::{Kubectl, Transcript, words};

/// A second name of the image, for `set image`.
pub(super) const IMAGE_2: &str = "kumquat.test/busybox:v2";

const WEB: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  color: red
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: kumquat.test/busybox:v1
        command: [/bin/sh, -c, 'echo color $COLOR; echo ready; exec sleep 1000']
        ports:
        - containerPort: 8080
        env:
        - name: COLOR
          valueFrom:
            configMapKeyRef: {name: settings, key: color}
        readinessProbe:
          exec: {command: [/bin/true]}
        resources:
          requests: {cpu: 10m, memory: 8Mi}
          limits: {memory: 32Mi}
        volumeMounts:
        - {name: scratch, mountPath: /scratch}
      volumes:
      - name: scratch
        emptyDir: {}
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

/// `kubectl run` of a pod that is not restarted.
const RUN: &str = "--image=kumquat.test/busybox:v1 --restart=Never --command --";

/// Everything, in the order in which people meet it.
pub(super) fn scenario(kubectl: &Kubectl) -> Transcript {
    let mut transcript = Transcript::default();
    node(kubectl, &mut transcript);
    deploy(kubectl, &mut transcript);
    logs(kubectl, &mut transcript);
    roll(kubectl, &mut transcript);
    change(kubectl, &mut transcript);
    ends(kubectl, &mut transcript);
    schedule(kubectl, &mut transcript);
    refuse(kubectl, &mut transcript);
    watch(kubectl, &mut transcript);
    remove(kubectl, &mut transcript);
    transcript
}

/// The board itself; what the machine has is left out.
fn node(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run(kubectl, "wait --for=condition=Ready node/board --timeout=30s");
    transcript.run(kubectl, "get nodes");
    let command = "get nodes -o wide";
    let wide = kubectl.run(&words(command).iter().map(String::as_str).collect::<Vec<_>>());
    let head = wide.lines().next().unwrap_or_default();
    transcript.note(command, head);
    describe_node(kubectl, transcript);
}

fn describe_node(kubectl: &Kubectl, transcript: &mut Transcript) {
    const MACHINE: [&str; 8] = [
        "cpu:",
        "memory:",
        "ephemeral-storage:",
        "Machine ID:",
        "System UUID:",
        "Boot ID:",
        "Kernel Version:",
        "OS Image:",
    ];
    let text = kubectl.run(&["describe", "node", "board"]);
    let mask = |line: &str| match MACHINE.iter().find(|key| line.trim().starts_with(**key)) {
        Some(key) => format!("  {key}  OF-THE-MACHINE"),
        None => line.replace(std::env::consts::ARCH, "ARCH").replace(architecture(), "ARCH"),
    };
    // Conditions that a board has only while something is wrong with the machine.
    const AILMENTS: [&str; 4] = ["ClockUnsynced", "Undervoltage", "Throttling", "ReadOnlyRoot"];
    let ails = |line: &&str| AILMENTS.iter().any(|name| line.trim().starts_with(name));
    let lines: Vec<String> = text.lines().filter(|line| !ails(line)).map(mask).collect();
    transcript.note("describe node board", &lines.join("\n"));
}

fn architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }
}

fn deploy(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run_with(kubectl, "apply -f -", WEB);
    rolled_out(kubectl, transcript, "web");
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("wait --for=condition=Available deployment/web --timeout=30s");
    run("wait --for=condition=Ready pod -l app=web --timeout=30s");
    run("get deployments,replicasets,pods,services -o wide");
    run("get pods -l app=web -o yaml");
    run("get deployment web -o yaml");
    run("get all");
    run("describe deployment web");
    run("describe replicaset -l app=web");
    run("describe pod -l app=web");
    run("describe service web");
    run("get events");
    run("events --for deployment/web");
    run("get leases -n kube-node-lease");
    run("get endpoints,endpointslices");
}

fn logs(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("logs deployment/web");
    run("logs deployment/web --tail=1");
    run("logs deployment/web -c other");
    run("logs -l app=web --prefix");
    run("logs deployment/web --previous");
    run(&format!(
        "run ticker {RUN} sh -c 'echo start; while true; do echo tick; usleep 200000; done'"
    ));
    run("wait --for=condition=Ready pod/ticker --timeout=30s");
    for (command, count) in [("logs -f ticker", 3), ("logs -f ticker --tail=0", 2)] {
        let followed = kubectl.follow(&command.split(' ').collect::<Vec<_>>());
        let lines: Vec<String> = (0..count).map(|_| followed.line()).collect();
        transcript.note(command, &lines.join("\n"));
    }
    transcript.run(kubectl, "delete pod ticker --now");
}

/// Ends with a rollout; which steps a client sees on the way depends on the machine.
fn rolled_out(kubectl: &Kubectl, transcript: &mut Transcript, name: &str) {
    let command = format!("rollout status deployment/{name} --timeout=60s");
    let text = kubectl.run(&command.split(' ').collect::<Vec<_>>());
    let last = text.lines().last().unwrap_or_default();
    transcript.note(&command, last);
}

fn roll(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run(kubectl, "scale deployment web --replicas=2");
    rolled_out(kubectl, transcript, "web");
    transcript.run(kubectl, "get deployment web");
    transcript.run(kubectl, "get pods -l app=web");
    transcript.run(kubectl, "scale deployment web --replicas=1");
    transcript.until(kubectl, "get deployment web", "1/1");
    for command in [
        "set image deployment/web main=kumquat.test/busybox:v2",
        "rollout undo deployment/web",
        "rollout restart deployment/web",
    ] {
        transcript.run(kubectl, command);
        rolled_out(kubectl, transcript, "web");
        transcript
            .run(kubectl, "annotate deployment web kubernetes.io/change-cause=step --overwrite");
        transcript.until(kubectl, "rollout history deployment/web", "step");
    }
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("rollout history deployment/web --revision=2");
    run("rollout undo deployment/web --to-revision=9");
    run("rollout pause deployment/web");
    run("rollout restart deployment/web");
    run("rollout resume deployment/web");
    run(
        "get replicasets -l app=web --sort-by=.metadata.annotations.deployment\\.kubernetes\\.io/revision",
    );
}

/// Waits until the pods of earlier revisions have ended: they bear the same labels until then.
fn is_alone(kubectl: &Kubectl) {
    let ends = Instant::now() + Duration::from_secs(30);
    let pods = || kubectl.run(&["get", "pods", "-l", "app=web", "-o", "name"]);
    while pods().lines().count() != 1 {
        assert!(Instant::now() < ends, "pods of earlier revisions stay: {}", pods());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn change(kubectl: &Kubectl, transcript: &mut Transcript) {
    is_alone(kubectl);
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("label pods -l app=web tier=front");
    run("get pods -l tier=front --show-labels");
    run("annotate pods -l app=web note=hello");
    run("label pods -l app=web tier-");
    run("create deployment typed --image=kumquat.test/busybox:v1 -- sleep 1000");
    run("wait --for=condition=Available deployment/typed --timeout=30s");
    run(
        "patch deployment typed -p '{\"spec\":{\"template\":{\"spec\":{\"terminationGracePeriodSeconds\":1}}}}'",
    );
    rolled_out(kubectl, transcript, "typed");
    transcript.run(kubectl, "delete deployment typed");
    transcript.run(kubectl, "wait --for=delete pod -l app=typed --timeout=40s");
}

/// Pods that end, well or not.
fn ends(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run(&format!("run once {RUN} sh -c 'echo done'"));
    run(&format!("run fails {RUN} sh -c 'exit 3'"));
    run("run crash --image=kumquat.test/busybox:v1 --command -- sh -c 'echo run; exit 4'");
    run("run absent --image=kumquat.test/absent:v1");
    transcript.until(kubectl, "get pod once", "Completed");
    transcript.until(kubectl, "get pod fails", "Error");
    transcript.until(kubectl, "get pod absent", "ImagePullBackOff");
    let restarts = "get pod crash -o jsonpath={.status.containerStatuses[0].restartCount}";
    transcript.until(kubectl, restarts, "1");
    transcript.until(kubectl, "get pod crash", "CrashLoopBackOff");
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("logs once");
    run("logs crash --previous");
    run("describe pod once");
    run("describe pod fails");
    run("logs absent");
    describe_repeating(kubectl, transcript, "crash");
    describe_repeating(kubectl, transcript, "absent");
    transcript.run(kubectl, "delete pod once fails crash absent --now");
}

/// Which of the events that repeat came last depends on the second; they are noted by reason.
fn describe_repeating(kubectl: &Kubectl, transcript: &mut Transcript, pod: &str) {
    let text = kubectl.run(&["describe", "pod", pod]);
    let (object, events) = text.split_once("Events:").unwrap_or((&text, ""));
    let mut events: Vec<&str> = events.lines().skip(3).collect();
    let key = |line: &&str| {
        let mut words = line.split_whitespace();
        (words.nth(1).map(str::to_owned), words.next_back().map(str::to_owned))
    };
    events.sort_by_key(key);
    transcript
        .note(&format!("describe pod {pod}"), &format!("{object}Events:\n{}", events.join("\n")));
}

fn schedule(kubectl: &Kubectl, transcript: &mut Transcript) {
    transcript.run(kubectl, "cordon board");
    transcript.run(kubectl, "get nodes");
    transcript.run(kubectl, &format!("run stuck {RUN} sleep 1000"));
    transcript.until(kubectl, "describe pod stuck", "FailedScheduling");
    transcript.run(kubectl, "get pod stuck -o wide");
    transcript.run(kubectl, "logs stuck");
    transcript.run(kubectl, "uncordon board");
    transcript.until(kubectl, "get pod stuck", "Running");
    transcript.run(kubectl, "delete pod stuck --grace-period=1");
    transcript.run(kubectl, "drain board --dry-run=client --ignore-daemonsets --force");
    transcript.run(kubectl, "run big --image=kumquat.test/busybox:v1 --overrides '{\"spec\":{\"containers\":[{\"name\":\"big\",\"image\":\"kumquat.test/busybox:v1\",\"resources\":{\"requests\":{\"cpu\":\"1000\"}}}]}}'");
    transcript.until(kubectl, "events --for pod/big", "FailedScheduling");
    transcript.run(kubectl, "delete pod big --now");
}

/// What is not served says so.
fn refuse(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run("top nodes");
    run("top pods");
    run("exec deployment/web -- sh -c 'echo inside; exit 3'");
    run("auth can-i create deployments");
    run("auth can-i '*' '*' --all-namespaces");
    run("auth can-i --list");
    run("auth whoami");
    run("autoscale deployment web --max=3");
    run("get pods --field-selector spec.nodeName=board,status.phase=Running -l app=web -o name");
}

/// A pod's life as two watches see it; what else they show is left out.
fn watch(kubectl: &Kubectl, transcript: &mut Transcript) {
    let pods = "get pods -w --output-watch-events --no-headers";
    let events = "get events -w --no-headers -o custom-columns=N:.involvedObject.name,R:.reason,P:.involvedObject.fieldPath,C:.source.component,M:.message";
    let [pod_lines, event_lines] = [pods, events].map(|command| {
        let followed = kubectl.follow(&command.split(' ').collect::<Vec<_>>());
        // What was there before: the watch goes on from the same version.
        let first = followed.line();
        assert_ne!(first, "no line", "kubectl {command}");
        followed
    });
    transcript.run(kubectl, &format!("run seen {RUN} sleep 1000"));
    transcript.until(kubectl, "get pod seen", "Running");
    transcript.run(kubectl, "delete pod seen --grace-period=1");
    let mut steps: Vec<String> = Vec::new();
    loop {
        let line = pod_lines.line();
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let step = words.join(" ");
        // How many changes a status takes, and whether what is between Pending and Running is seen,
        // depends on the machine.
        let between = step.contains("ContainerCreating") || step == "MODIFIED seen 0/1 Pending";
        if step.contains(" seen ") && !between && steps.last() != Some(&step) {
            steps.push(step);
        }
        if line.starts_with("DELETED") || line == "no line" {
            break;
        }
    }
    transcript.note(pods, &steps.join("\n"));
    let mut happened = Vec::new();
    while happened.len() < 5 {
        let line = event_lines.line();
        if line.starts_with("seen") || line == "no line" {
            happened.push(line);
        }
    }
    transcript.note(events, &happened.join("\n"));
}

fn remove(kubectl: &Kubectl, transcript: &mut Transcript) {
    let mut run = |command: &str| transcript.run(kubectl, command);
    run(&format!("run stubborn {RUN} sh -c 'trap \"\" TERM; while true; do usleep 100000; done'"));
    run("wait --for=condition=Ready pod/stubborn --timeout=30s");
    run("delete pod stubborn --wait=false");
    run("get pod stubborn");
    run("delete pod stubborn --force --grace-period=0");
    run("get pod stubborn");
    run("create namespace shop");
    run(
        "run inside -n shop --image=kumquat.test/busybox:v1 --command -- sh -c 'trap \"exit 0\" TERM; while true; do usleep 100000; done'",
    );
    run("wait -n shop --for=condition=Ready pod/inside --timeout=30s");
    run("delete namespace shop");
    run("get namespaces");
    run("delete deployment web --cascade=orphan");
    run("get replicasets -l app=web -o jsonpath={.items[*].metadata.ownerReferences}");
    transcript.run_with(kubectl, "apply -f -", WEB);
    rolled_out(kubectl, transcript, "web");
    transcript.run(kubectl, "delete deployment web --cascade=foreground");
    transcript.run(kubectl, "get pods,replicasets -l app=web");
    transcript.run_with(kubectl, "delete -f -", WEB);
    transcript.run(kubectl, "get all");
}
