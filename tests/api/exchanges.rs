//! The requests behind `real-apiserver-answers.txt`, which recorded only the answers.

use serde_json::Value;

/// One request, the title of its recorded answer, and how ours may differ.
pub(crate) struct Exchange {
    /// The `###` line.
    pub(crate) title: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: &'static str,
    pub(crate) expect: Expect,
}

/// How our answer relates to the recorded one.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    /// Equal, volatile fields aside.
    Same,
    /// Equal after this change to both bodies, for this reason.
    But(&'static str, fn(&mut Value)),
    /// The same code and headers; the recording holds no body, or only a piece of it.
    Head,
    /// Another answer, for this reason: with this code.
    Other(&'static str, u16),
    /// Not recorded: keeps our server in step with what the real one did by other means.
    Step,
}

const CM: &str = "/api/v1/namespaces/default/configmaps";
const A: &str = "/api/v1/namespaces/default/configmaps/a";
const B: &str = "/api/v1/namespaces/default/configmaps/b";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
const JSON_PATCH: &[(&str, &str)] = &[("content-type", "application/json-patch+json")];
const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];
const TABLE: &[(&str, &str)] = &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
const PARTIAL: &[(&str, &str)] =
    &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
const AGGREGATED: &[(&str, &str)] =
    &[("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
const V2_PROTOBUF: &[(&str, &str)] =
    &[("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];

const NO_PROTOBUF: &str = "answers are JSON or YAML; every known client names JSON second";
const NO_APPLY: &str = "server-side apply comes with managed fields";
const NO_PAST: &str = "lists of the past are not kept; the answer is 410 or the newest state";
const NO_DESCRIPTIONS: &str = "schemas and columns are served without descriptions";
const OWN_VERSION: &str = "gitVersion names kumquat, the compiler is not Go's";
const OWN_CHECKS: &str = "the checks are kumquat's own";
const OWN_PATHS: &str = "only paths that are served";
const OWN_POD: &str = "no service-account token volume until tokens exist; a pod leaves a lost board \
                       after 25 s and not 300 s";
const OWN_DIFF: &str = "what changed is shown in the API's field names, not in those of Go structs";
const YAML_1_2: &str = "bodies are YAML 1.2, where an unquoted y is a text; clients send JSON";

const fn get(title: &'static str, path: &'static str, expect: Expect) -> Exchange {
    Exchange { title, method: "GET", path, headers: &[], body: "", expect }
}

const fn get_as(
    title: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    expect: Expect,
) -> Exchange {
    Exchange { title, method: "GET", path, headers, body: "", expect }
}

const fn post(title: &'static str, path: &'static str, body: &'static str) -> Exchange {
    Exchange { title, method: "POST", path, headers: JSON, body, expect: Expect::Same }
}

const fn delete(title: &'static str, path: &'static str, body: &'static str) -> Exchange {
    Exchange { title, method: "DELETE", path, headers: JSON, body, expect: Expect::Same }
}

const fn patch(
    title: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    expect: Expect,
) -> Exchange {
    Exchange { title, method: "PATCH", path, headers, body, expect }
}

const fn with(exchange: Exchange, method: &'static str, expect: Expect) -> Exchange {
    Exchange { method, expect, ..exchange }
}

const fn sent_as(exchange: Exchange, headers: &'static [(&'static str, &'static str)]) -> Exchange {
    Exchange { headers, ..exchange }
}

fn drop_descriptions(body: &mut Value) {
    let Some(columns) = body["columnDefinitions"].as_array_mut() else { return };
    for column in columns {
        column["description"] = Value::Null;
    }
}

fn drop_build(body: &mut Value) {
    for field in ["gitVersion", "gitCommit", "goVersion", "compiler", "platform"] {
        body[field] = Value::Null;
    }
}

fn own_pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("volumes");
    }
    if let Some(container) = spec["containers"][0].as_object_mut() {
        container.remove("volumeMounts");
    }
    for toleration in spec["tolerations"].as_array_mut().into_iter().flatten() {
        toleration["tolerationSeconds"] = Value::Null;
    }
}

fn first_lines(status: &mut Value) {
    for path in ["/message", "/details/causes/0/message"] {
        let Some(text) = status.pointer_mut(path) else { continue };
        let first = text.as_str().and_then(|text| text.lines().next()).unwrap_or_default();
        *text = first.into();
    }
}

fn only_json(body: &mut Value) {
    let text = body["message"].as_str().unwrap_or_default();
    let text = text
        .replace(", application/vnd.kubernetes.protobuf;stream=watch", "")
        .replace(", application/vnd.kubernetes.protobuf", "");
    body["message"] = text.into();
}

/// Everything, in the order in which it was recorded.
pub(crate) const EXCHANGES: &[Exchange] = &[
    post(
        "create cm json",
        CM,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#,
    ),
    post("create dup", CM, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#),
    sent_as(
        post(
            "create no content-type",
            CM,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a2"}}"#,
        ),
        &[],
    ),
    Exchange {
        title: "create yaml",
        method: "POST",
        path: "/api/v1/namespaces/default/configmaps?dryRun=All",
        headers: &[("content-type", "application/yaml")],
        body: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n",
        expect: Expect::Other(YAML_1_2, 201),
    },
    sent_as(
        post(
            "create text/plain",
            CM,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a3"}}"#,
        ),
        &[("content-type", "text/plain")],
    ),
    post(
        "unknown field default(Warn)",
        CM,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"},"dat":{"x":"y"}}"#,
    ),
    post(
        "unknown field Strict + dup",
        "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"dat":{},"data":{"x":"1","x":"2"}}"#,
    ),
    post(
        "bad type",
        CM,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"x":1}}"#,
    ),
    post("bad name", CM, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"B_3"}}"#),
    post("wrong kind", CM, r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"c"}}"#),
    post(
        "ns mismatch",
        CM,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"other"}}"#,
    ),
    post(
        "ns missing",
        "/api/v1/namespaces/nope/configmaps",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#,
    ),
    post(
        "generateName",
        CM,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"g-"}}"#,
    ),
    get("get 404", "/api/v1/namespaces/default/configmaps/zz", Expect::Same),
    get("unknown resource", "/api/v1/namespaces/default/nopes", Expect::Same),
    get("unknown group", "/apis/nope.example/v1/namespaces/default/nopes", Expect::Same),
    with(
        post(
            "PUT stale rv",
            A,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}"#,
        ),
        "PUT",
        Expect::Same,
    ),
    with(
        post(
            "PUT create-on-update",
            "/api/v1/namespaces/default/configmaps/newone",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"newone"}}"#,
        ),
        "PUT",
        Expect::Same,
    ),
    patch("PATCH bad ct", A, JSON, "{}", Expect::Same),
    patch(
        "PATCH json test fail",
        A,
        JSON_PATCH,
        r#"[{"op":"test","path":"/data/k","value":"other"}]"#,
        Expect::Same,
    ),
    patch(
        "PATCH json bad path",
        A,
        JSON_PATCH,
        r#"[{"op":"replace","path":"/data/none/deeper","value":"x"}]"#,
        Expect::Same,
    ),
    patch(
        "PATCH merge rv conflict",
        A,
        MERGE,
        r#"{"metadata":{"resourceVersion":"1"},"data":{"k":"z"}}"#,
        Expect::Same,
    ),
    patch("PATCH no-op", A, MERGE, r#"{"data":{"k":"v"}}"#, Expect::Same),
    patch("APPLY no manager", A, APPLY, "data: {k: x}", Expect::Same),
    patch(
        "APPLY conflict",
        "/api/v1/namespaces/default/configmaps/a?fieldManager=m1",
        APPLY,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: x}",
        Expect::Other(NO_APPLY, 415),
    ),
    patch(
        "APPLY force",
        "/api/v1/namespaces/default/configmaps/a?fieldManager=m1&force=true",
        APPLY,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: x}",
        Expect::Other(NO_APPLY, 415),
    ),
    patch("", A, MERGE, r#"{"data":{"k":"x"}}"#, Expect::Step),
    post(
        "dryRun bad",
        "/api/v1/namespaces/default/configmaps?dryRun=yes",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d"}}"#,
    ),
    post(
        "dryRun ok",
        "/api/v1/namespaces/default/configmaps?dryRun=All",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d"}}"#,
    ),
    get("list limit 1", "/api/v1/namespaces/default/configmaps?limit=1", Expect::Same),
    get("list rv=0", "/api/v1/namespaces/default/configmaps?resourceVersion=0", Expect::Same),
    get(
        "list exact too old",
        "/api/v1/namespaces/default/configmaps?resourceVersion=1&resourceVersionMatch=Exact",
        Expect::Other(NO_PAST, 410),
    ),
    get(
        "list rvmatch without rv",
        "/api/v1/namespaces/default/configmaps?resourceVersionMatch=Exact",
        Expect::Same,
    ),
    get(
        "list future rv",
        "/api/v1/namespaces/default/configmaps?resourceVersion=4611686018427387904&resourceVersionMatch=NotOlderThan",
        Expect::Same,
    ),
    get(
        "list bad continue",
        "/api/v1/namespaces/default/configmaps?limit=1&continue=abc",
        Expect::Same,
    ),
    get("bad labelsel", "/api/v1/namespaces/default/configmaps?labelSelector=a%20b", Expect::Same),
    get(
        "bad fieldsel",
        "/api/v1/namespaces/default/configmaps?fieldSelector=spec.x%3D1",
        Expect::Same,
    ),
    get_as(
        "table",
        "/api/v1/namespaces/default/configmaps?limit=2",
        TABLE,
        Expect::But(NO_DESCRIPTIONS, drop_descriptions),
    ),
    get_as("partial list", "/api/v1/namespaces/default/configmaps?limit=1", PARTIAL, Expect::Same),
    get_as(
        "accept pb only",
        A,
        &[("accept", "application/vnd.kubernetes.protobuf")],
        Expect::Other(NO_PROTOBUF, 406),
    ),
    get_as("accept text/html", CM, &[("accept", "text/html")], Expect::But(NO_PROTOBUF, only_json)),
    get_as(
        "accept yaml",
        "/api/v1/namespaces/default/configmaps/y",
        &[("accept", "application/yaml")],
        Expect::Same,
    ),
    get_as("accept cbor", A, &[("accept", "application/cbor")], Expect::Head),
    get(
        "watch old rv",
        "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=START&timeoutSeconds=1",
        Expect::Same,
    ),
    get(
        "watch sendInitialEvents no match",
        "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true",
        Expect::Same,
    ),
    get(
        "watch list",
        "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=no%3Dsuch&timeoutSeconds=1",
        Expect::Same,
    ),
    get(
        "watch list no bookmarks",
        "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&labelSelector=no%3Dsuch&timeoutSeconds=1",
        Expect::Same,
    ),
    get_as(
        "watch table",
        "/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1",
        TABLE,
        Expect::Same,
    ),
    get(
        "watch single path",
        "/api/v1/namespaces/default/configmaps/nothing?watch=true&timeoutSeconds=1",
        Expect::Same,
    ),
    get(
        "watch future",
        "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=4611686018427387904&timeoutSeconds=1",
        Expect::Same,
    ),
    delete("delete", "/api/v1/namespaces/default/configmaps/y", ""),
    delete(
        "delete w/ precondition",
        B,
        r#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}"#,
    ),
    patch(
        "delete w/ finalizer setup",
        B,
        MERGE,
        r#"{"metadata":{"finalizers":["x.y/z"]}}"#,
        Expect::Head,
    ),
    delete("delete w/ finalizer", B, ""),
    delete("delete 404", "/api/v1/namespaces/default/configmaps/nope", ""),
    delete("deletecollection", "/api/v1/namespaces/default/configmaps?labelSelector=no%3Dsuch", ""),
    get_as("discovery agg /api", "/api", AGGREGATED, Expect::Head),
    get_as("discovery agg HEADERS /apis", "/apis", AGGREGATED, Expect::Head),
    get("openapi v3 index", "/openapi/v3", Expect::Head),
    get("openapi v3 stale hash", "/openapi/v3/api/v1?hash=ABC", Expect::Head),
    get_as("openapi v2 hdr pb", "/openapi/v2", V2_PROTOBUF, Expect::Head),
    get_as(
        "openapi v2 hdr json",
        "/openapi/v2",
        &[("accept", "application/json")],
        Expect::Other("kubectl reads the protobuf form alone, the JSON form fails there", 406),
    ),
    get("version", "/version", Expect::But(OWN_VERSION, drop_build)),
    get("root", "/", Expect::Other(OWN_PATHS, 200)),
    get("readyz verbose", "/readyz?verbose", Expect::Other(OWN_CHECKS, 200)),
    post(
        "pod minimal (defaults)",
        "/api/v1/namespaces/kube-public/serviceaccounts",
        r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#,
    ),
    with(
        post(
            "pod minimal",
            "/api/v1/namespaces/kube-public/pods",
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
        ),
        "POST",
        Expect::But(OWN_POD, own_pod),
    ),
    post(
        "svc minimal",
        "/api/v1/namespaces/default/services",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}"#,
    ),
    post(
        "dep minimal",
        "/apis/apps/v1/namespaces/default/deployments",
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    ),
    get("scale get", "/apis/apps/v1/namespaces/default/deployments/d/scale", Expect::Same),
    post(
        "pod invalid",
        "/api/v1/namespaces/kube-public/pods",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p2"},"spec":{"containers":[{"name":"C!"}]}}"#,
    ),
    patch(
        "pod immutable",
        "/api/v1/namespaces/kube-public/pods/p",
        MERGE,
        r#"{"spec":{"nodeName":"x"}}"#,
        Expect::But(OWN_DIFF, first_lines),
    ),
    Exchange {
        title: "exec no node",
        method: "POST",
        path: "/api/v1/namespaces/kube-public/pods/p/exec?command=ls&stdout=true",
        headers: &[],
        body: "",
        expect: Expect::Same,
    },
    with(
        delete("pod delete (unscheduled)", "/api/v1/namespaces/kube-public/pods/p", ""),
        "DELETE",
        Expect::Head,
    ),
    delete("ns delete", "/api/v1/namespaces/kube-public", ""),
];
