//! Which user and groups a container runs as: pod, container and image say so, the image's
//! `/etc/passwd` and `/etc/group` translate names.

use logic::pod::spec::{Container, Pod};

/// User and groups by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Home directory, when `/etc/passwd` knows one.
    pub(crate) home: Option<String>,
}

/// Decides the user.
///
/// # Errors
/// A name that the image does not know, or root where `runAsNonRoot` forbids it.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, String> {
    let (of_pod, own) = (&pod.spec.security_context, &container.security_context);
    let (name, group_name) = match image_user.split_once(':') {
        Some((name, group_name)) => (name, group_name),
        None => (image_user, ""),
    };
    let chosen = own.run_as_user.or(of_pod.run_as_user);
    let entry = match chosen {
        Some(uid) => by_uid(passwd, uid),
        None => by_name(passwd, if name.is_empty() { "0" } else { name }),
    };
    let uid = match (chosen, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) if name.is_empty() => 0,
        (None, None) => name.parse().map_err(|_| {
            format!("unable to find user {name}: no matching entries in passwd file")
        })?,
    };
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) && uid == 0 {
        let (pod, container) = (pod.full_name(), &container.name);
        return Err(format!(
            "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
        ));
    }
    let group_of_image = match (chosen, group_name) {
        (None, "") | (Some(_), _) => None,
        (None, name) => {
            let known = group_entries(group).find(|entry| entry.0 == name).map(|entry| entry.1);
            let gid = known.or_else(|| name.parse().ok());
            Some(gid.ok_or_else(|| format!("unable to find group {name}"))?)
        }
    };
    let gid = own
        .run_as_group
        .or(of_pod.run_as_group)
        .or(group_of_image)
        .or(entry.as_ref().map(|entry| entry.gid))
        .unwrap_or(0);
    let mut groups = of_pod.supplemental_groups.clone();
    groups.extend(of_pod.fs_group);
    if let Some(entry) = &entry {
        let member = |members: &str| members.split(',').any(|member| member == entry.name);
        groups.extend(group_entries(group).filter(|(_, _, m)| member(m)).map(|(_, gid, _)| gid));
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups, home: entry.map(|entry| entry.home) })
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or("/").to_owned() })
    })
}

fn by_uid(passwd: &str, uid: u32) -> Option<Entry> {
    entries(passwd).find(|entry| entry.uid == uid)
}

fn by_name(passwd: &str, name: &str) -> Option<Entry> {
    entries(passwd).find(|entry| entry.name == name).or_else(|| by_uid(passwd, name.parse().ok()?))
}

fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> + '_ {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";

    fn check(spec: &str, image_user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let json = format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#);
        let pod = Pod::parse(json.as_bytes()).expect("a pod");
        let user = resolve(&pod, &pod.spec.containers[0], image_user, PASSWD, GROUP);
        match expected {
            Ok((uid, gid, groups)) => {
                let user = user.expect("a user");
                assert_eq!((user.uid, user.gid, user.groups.as_slice()), (uid, gid, groups));
            }
            Err(text) => assert!(user.expect_err("no user").contains(text)),
        }
    }

    #[test]
    fn the_nearest_word_wins() {
        let plain = r#"{"containers":[{"name":"c"}]}"#;
        check(plain, "", Ok((0, 0, &[])));
        check(plain, "web", Ok((33, 34, &[50])));
        check(plain, "33", Ok((33, 34, &[50])));
        check(plain, "1000:www", Ok((1000, 34, &[])));
        check(plain, "nobody", Err("unable to find user nobody"));
        let own = r#"{"securityContext":{"runAsUser":1,"runAsGroup":2,"fsGroup":9},
            "containers":[{"name":"c","securityContext":{"runAsUser":33}}]}"#;
        check(own, "web", Ok((33, 2, &[9, 50])));
        let guarded = r#"{"securityContext":{"runAsNonRoot":true},"containers":[{"name":"c"}]}"#;
        check(guarded, "", Err("runAsNonRoot"));
        check(guarded, "web", Ok((33, 34, &[50])));
    }
}
