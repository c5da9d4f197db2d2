use super::*;
use crate::config::Config;

fn router(space: &str, route: &str) -> Router {
    let text = format!(
        "[[ring.shards]]\nname = \"a\"\naddress = \"h:1\"\n[spaces.s]\n{space}\n[[routes]]\ntable = \"t\"\nspace = \"s\"\n{route}\n"
    );
    Router::new(Config::parse(&text, []).unwrap().routes)
}

fn check(space: &str, route: &str, view: ViewType) -> Vec<String> {
    let key = ["pk".to_owned(), "sk".to_owned()];
    router(space, route).check("t", view, &key).iter().map(ToString::to_string).collect()
}

#[test]
fn the_view_type_has_to_carry_what_a_route_reads() {
    use ViewType::{KeysOnly, NewAndOldImages, NewImage, OldImage};
    let both = "key = \"k:{pk}:{sk}\"";
    let versioned = format!("{both}\nmode = \"versioned\"\nversion_attribute = \"v\"");
    for (space, route, fit) in [
        (both, "", &ViewType::ALL[..]),
        ("key = \"k:{pk}\"", "", &ViewType::ALL),
        ("key = \"home:top\"", "", &ViewType::ALL),
        ("key = \"c:{category}\"", "", &[NewAndOldImages]),
        ("key = \"c:{category}\"", "on = [\"INSERT\"]", &[NewImage, NewAndOldImages]),
        ("key = \"c:{category}\"", "on = [\"REMOVE\"]", &[OldImage, NewAndOldImages]),
        (both, "when_changed = [\"price\"]", &[NewAndOldImages]),
        (both, "when_changed = [\"price\"]\non = [\"REMOVE\"]", &ViewType::ALL),
        (both, "action = \"refresh\"", &[NewImage, NewAndOldImages]),
        (&versioned, "", &[NewAndOldImages]),
        (&versioned, "on = [\"MODIFY\"]", &[NewImage, NewAndOldImages]),
    ] {
        for view in ViewType::ALL {
            let found = check(space, route, view);
            assert_eq!(found.is_empty(), fit.contains(&view), "{space} {route} {view:?}: {found:?}");
        }
    }
    let found = check("key = \"c:{category}\"", "", KeysOnly);
    assert!(
        found[0].contains("\"category\"") && found[0].contains("pk, sk") && found[0].contains("NEW_AND_OLD_IMAGES"),
        "{found:?}"
    );
}

#[test]
fn versions_are_compared_for_one_item_only() {
    for (space, route) in [
        ("key = \"k:{pk}\"\nmode = \"versioned\"\nversion_attribute = \"v\"", ""),
        ("key = \"k:{pk}\"", "action = \"refresh\""),
    ] {
        let found = check(space, route, ViewType::NewAndOldImages);
        assert!(found.len() == 1 && found[0].contains("lacks sk"), "{found:?}");
    }
    assert!(check("key = \"k:{pk}\"", "", ViewType::NewAndOldImages).is_empty());
}
