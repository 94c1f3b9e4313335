//! LIST: pages, selectors, versions.

use super::*;

async fn five_maps(bed: &Bed) {
    for name in ["a", "b", "c", "d", "e"] {
        let mut object = config_map(name);
        if matches!(name, "b" | "d") {
            object["metadata"]["labels"] = json!({"x": "1"});
        }
        bed.create("/configmaps", "default", object).await;
    }
}

fn query() -> ListQuery {
    ListQuery::all(of("/configmaps"), Some("default".into()))
}

fn names(page: &ListPage) -> Vec<String> {
    let name = |item: &ListItem| {
        value(&item.json())["metadata"]["name"].as_str().expect("name").to_owned()
    };
    page.items.iter().map(name).collect()
}

#[tokio::test]
async fn pages_cover_everything_once_and_keep_the_first_version() {
    let bed = Bed::new().await;
    five_maps(&bed).await;
    let mut query = ListQuery { limit: 2, ..query() };
    let first = bed.registry.list(&query).expect("a page");
    assert_eq!((names(&first), first.remaining), (vec!["a".into(), "b".into()], Some(3)));
    assert!(value(&first.items[0].json()).get("kind").is_none(), "items carry no kind");
    bed.create("/configmaps", "default", config_map("bb")).await;
    let mut seen = names(&first);
    query.continue_token = first.continue_token.clone();
    while !query.continue_token.is_empty() {
        let page = bed.registry.list(&query).expect("a page");
        assert_eq!(page.version, first.version);
        seen.extend(names(&page));
        let left = 6 - seen.len() as u64;
        assert_eq!(page.remaining, (left > 0).then_some(left));
        query.continue_token = page.continue_token;
    }
    assert_eq!(seen, ["a", "b", "bb", "c", "d", "e"]);
}

#[tokio::test]
async fn selectors_choose_and_limits_count_what_was_chosen() {
    let bed = Bed::new().await;
    five_maps(&bed).await;
    for (labels, fields, expected) in [
        ("x=1", "", vec!["b", "d"]),
        ("x!=1", "", vec!["a", "c", "e"]),
        ("", "metadata.name=c", vec!["c"]),
        ("x=1", "metadata.name=c", vec![]),
        ("x", "metadata.name!=b", vec!["d"]),
        ("", "metadata.namespace=other", vec![]),
    ] {
        let query = ListQuery { labels: labels.into(), fields: fields.into(), ..query() };
        assert_eq!(names(&bed.registry.list(&query).expect("a page")), expected);
    }
    let query = ListQuery { labels: "x=1".into(), limit: 1, ..query() };
    let page = bed.registry.list(&query).expect("a page");
    assert_eq!((names(&page), page.remaining), (vec!["b".into()], None));
    let everywhere = ListQuery { namespace: None, fields: "metadata.name=c".into(), ..query };
    let everywhere = ListQuery { labels: String::new(), limit: 0, ..everywhere };
    assert_eq!(names(&bed.registry.list(&everywhere).expect("a page")), ["c"]);
}

#[tokio::test]
async fn refusals_of_list_have_the_real_words() {
    let bed = Bed::new().await;
    five_maps(&bed).await;
    let current = bed.registry.store().version();
    let future = current.0 + 1_000_000_000_000;
    let versioned = |version: &str, version_match: &str| ListQuery {
        resource_version: Some(version.into()),
        version_match: version_match.into(),
        ..query()
    };
    for (query, code, message) in [
        (
            ListQuery { version_match: "Exact".into(), ..query() },
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden unless resourceVersion is provided"
                .to_owned(),
        ),
        (
            versioned(&future.to_string(), ""),
            504,
            format!("Timeout: Too large resource version: {future}, current: {current}"),
        ),
        (
            versioned("1", "Exact"),
            410,
            "The resourceVersion for the provided list is too old.".to_owned(),
        ),
        (
            ListQuery { continue_token: "abc".into(), limit: 1, ..query() },
            400,
            "invalid continue token: continue key is not valid: invalid character 'i' looking for \
             beginning of value"
                .to_owned(),
        ),
        (
            ListQuery { labels: "a b".into(), ..query() },
            400,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
                .to_owned(),
        ),
        (
            ListQuery { fields: "spec.x=1".into(), ..query() },
            400,
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
                .to_owned(),
        ),
    ] {
        let error = bed.registry.list(&query).expect_err("is refused");
        assert_eq!((error.code, error.message), (code, message));
    }
    let exact = versioned(&current.to_string(), "Exact");
    assert_eq!(bed.registry.list(&exact).expect("nothing changed since").items.len(), 5);
    for accepted in ["0", "1"] {
        assert_eq!(bed.registry.list(&versioned(accepted, "")).expect("newest").items.len(), 5);
    }
}
