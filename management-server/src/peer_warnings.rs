//! What whoever adds or changes a peer may not have meant, in sentences.

use std::collections::BTreeSet;

use crate::closest::closest;
use crate::peer::{Device, Standing};
use crate::words;

/// What proxies leave away of who a device is, because it cannot stand in a field.
pub(crate) fn unsaid(device: &Device) -> Vec<String> {
    if device.is_site() {
        return Vec::new();
    }
    let user = device.user().filter(|user| !words::is_sayable(user)).map(|user| {
        format!("upstreams are not told the user {user}: X-NetBird-User takes ASCII alone; choose such a name")
    });
    let groups = device.all_groups().into_iter().filter(|group| !words::is_sayable(group)).map(|group| {
        format!("upstreams are not told the group {group}: X-NetBird-Groups takes ASCII alone; choose such a name")
    });
    user.into_iter().chain(groups).collect()
}

/// Why a device that has groups or a user opens nothing all the same, and what to do. `let_in` are the groups of all private
/// services, `users` those of the configuration.
pub(crate) fn opens_nothing(device: &Device, let_in: &BTreeSet<String>, users: &BTreeSet<String>) -> Option<String> {
    let groups = device.all_groups();
    if (groups.is_empty() && device.owner.is_none()) || !groups.is_disjoint(let_in) {
        return None;
    }
    let name = &device.name;
    let stranger = device.owner.as_ref().filter(|owner| owner.standing == Standing::Unlisted).map(|owner| &owner.user);
    let why = match (stranger, groups.is_empty()) {
        (Some(user), true) => format!("the user {user} is not in the configuration, and it has no groups of its own"),
        (None, true) => "it is in no group".to_owned(),
        (Some(_) | None, false) => format!("none is for the group {}", listed(&groups)),
    };
    let near =
        |word: &String, known: &BTreeSet<String>| closest(word, known.iter().map(String::as_str)).map(str::to_owned);
    let group = device.groups.iter().find_map(|group| near(group, let_in));
    let user = stranger.and_then(|user| near(user, users));
    let next = match (group, user, let_in.first()) {
        (Some(group), _, _) => format!("did you mean {group}? `postern peer set {name} --groups {group}`"),
        (None, Some(user), _) => format!("did you mean {user}? `postern peer set {name} --user {user}`"),
        (None, None, Some(group)) => {
            format!("they are for {}, and `postern peer set {name} --groups {group}` puts it into one", listed(let_in))
        }
        (None, None, None) => "publish one with `access = { private = [\"GROUP\"] }`".to_owned(),
    };
    Some(format!("the peer {name} opens no private service: {why}; {next}"))
}

fn listed(groups: &BTreeSet<String>) -> String {
    groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Owner;

    fn words(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|&word| word.to_owned()).collect()
    }

    fn told(user: Option<(&str, Standing)>, groups: &[&str], let_in: &[&str]) -> Option<String> {
        let owner = user.map(|(user, standing)| Owner { user: user.to_owned(), standing });
        let device = Device {
            name: "b".to_owned(),
            owner,
            groups: words(groups),
            site: Vec::new(),
            enabled: true,
            expires: None,
            created: 0,
        };
        opens_nothing(&device, &words(let_in), &words(&["bob", "carol"]))
    }

    #[test]
    fn what_opens_nothing_is_told_with_what_was_meant() {
        let listed = |groups: &[&str]| Standing::Listed(words(groups));
        for (user, groups, why) in [
            (None, &["engg"][..], "none is for the group engg; did you mean eng? `postern peer set b --groups eng`"),
            (None, &["sales"], "none is for the group sales; they are for eng, ops"),
            (Some(("bbo", Standing::Unlisted)), &[], "did you mean bob? `postern peer set b --user bob`"),
            (
                Some(("you@example.com", Standing::Unlisted)),
                &[],
                "the user you@example.com is not in the configuration",
            ),
            (Some(("bob", listed(&[]))), &[], "it is in no group; they are for eng, ops"),
            (Some(("bob", listed(&["sales"]))), &["hr"], "none is for the group hr, sales"),
        ] {
            let told = told(user, groups, &["eng", "ops"]).expect(why);
            assert!(told.starts_with("the peer b opens no private service: ") && told.contains(why), "{told}");
        }
        let nobody = told(None, &["eng"], &[]).expect("there is none");
        assert!(nobody.contains("access = { private = ["), "{nobody}");
    }

    #[test]
    fn whoever_opens_something_or_asked_for_nothing_is_not_told_so() {
        let of = |groups: &[&str]| Some(("bob", Standing::Listed(words(groups))));
        assert_eq!(told(None, &["eng", "sales"], &["eng"]), None);
        assert_eq!(told(of(&["eng"]), &[], &["eng"]), None, "through the user");
        assert_eq!(told(None, &[], &["eng"]), None, "a machine behind the tunnel");
    }
}
