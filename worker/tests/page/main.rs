//! The status page in a real browser, of a running worker that has something to show: a ring shard that is down and a record
//! that nobody can read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod browser;
mod poison;
mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use browser::Browser;
use world::World;

/// Texts of the page whose contrast is below 4.5, what WCAG's level AA asks for.
const FAINT: &str = r"
const numbers = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    if (!color.endsWith(', 0)')) return numbers(color);
  }
  return [255, 255, 255];
};
const faint = [];
for (const node of document.querySelectorAll('body *')) {
  const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!text || !node.getClientRects().length || node.namespaceURI.endsWith('svg')) continue;
  const [a, b] = [luminance(numbers(getComputedStyle(node).color)), luminance(ground(node))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${node.textContent.slice(0, 40)}`);
}
return faint;
";

/// Elements that are wider than the page, or than the card that they are in.
const TOO_WIDE: &str = r"
const width = document.documentElement.clientWidth;
const edge = (node) => node.closest('.card') ? node.closest('.card').getBoundingClientRect().right : width;
const wide = [...document.querySelectorAll('body *')].filter((node) => !node.closest('.hidden, .wide thead') && node.getBoundingClientRect().right > edge(node) + 1);
return [document.documentElement.scrollWidth > width ? `the page is ${document.documentElement.scrollWidth} wide` : null, ...wide.map((node) => node.outerHTML.slice(0, 80))].filter(Boolean);
";

fn text(browser: &Browser, selector: &str) -> String {
    let found =
        browser.run(&format!("const node = document.querySelector({selector:?}); return node && node.innerText"));
    found.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_dead_ring_shard_and_a_parked_record_and_updates_itself() {
    let mut world = World::new().await;
    let worker = world.start();
    world.spoil_and_kill().await;

    let browser = Browser::start();
    browser.open(&world.page());
    browser.until("document.querySelector('#ring tbody tr:nth-child(3)')");
    browser.until("document.querySelector('svg.chart path')");

    // What needs attention comes first, and is told to those who cannot see it.
    assert_eq!(text(&browser, "#verdict"), "Needs attention");
    assert!(text(&browser, "#reasons").contains("ring shard dead takes no commands"), "{}", text(&browser, "#reasons"));
    let told = browser
        .run("return [...document.querySelectorAll('[aria-live=polite]')].map((node) => node.id || node.className)");
    assert_eq!(told, serde_json::json!(["state", "attention"]));
    let ring = text(&browser, "#ring");
    let row = |name: &str| {
        ring.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {ring}")).to_owned()
    };
    assert!(row("dead").contains("down"), "{ring}");
    assert!(row("one").contains("up") && row("two").contains("up"), "{ring}");
    let queued = browser.run("return [...document.querySelectorAll('#ring tbody tr')].map((row) => [row.cells[0].innerText, Number(row.cells[2].innerText)])");
    let queued = queued.as_array().unwrap();
    assert!(queued.iter().any(|row| row[0] == "dead" && row[1].as_u64() > Some(0)), "{queued:?}");

    let tiles = text(&browser, "#tiles");
    for shown in ["Parked records\n1", "Ring shards\n2 of 3", "Gaps\n0", "Probed lag"] {
        assert!(tiles.contains(shown), "{shown:?}: {tiles}");
    }
    let streams = text(&browser, "#streams");
    assert!(streams.contains("products") && streams.contains("read here") && streams.contains("shardId-"), "{streams}");
    assert!(text(&browser, "#tables").contains("1 read here"), "{}", text(&browser, "#tables"));
    assert!(text(&browser, "#gaps").contains("found none"), "{}", text(&browser, "#gaps"));

    // A name that is markup is shown, not obeyed.
    assert!(text(&browser, "#about").contains(world::OWNER), "{}", text(&browser, "#about"));
    assert!(text(&browser, "#owners").contains(world::OWNER), "{}", text(&browser, "#owners"));
    assert_eq!(browser.run("return document.querySelectorAll('b, main script, main img').length"), 0);
    assert_eq!(browser.run("return window.obeyed === undefined"), true);

    // Tables are tables to those who hear them, also where they look like cards.
    let unscoped = browser
        .run("return document.querySelectorAll('th:not([scope]), table:not([role=table]), tr:not([role=row])').length");
    assert_eq!(unscoped, 0);
    for (width, height) in [(390, 844), (1440, 900), (2200, 1200)] {
        for scheme in ["light", "dark"] {
            browser.look_as(width, height, scheme);
            browser.until("document.querySelector('svg.chart path')");
            assert_eq!(browser.run(TOO_WIDE), serde_json::json!([]), "{width} {scheme}");
            assert_eq!(browser.run(FAINT), serde_json::json!([]), "{width} {scheme}");
            let place = format!("{}/status-{width}-{scheme}.png", env!("CARGO_TARGET_TMPDIR"));
            std::fs::write(place, STANDARD.decode(browser.picture()).unwrap()).unwrap();
        }
    }

    // The page follows without being loaded again.
    browser.run("window.loaded_once = true");
    world.revive();
    browser.until("document.querySelector('#verdict').innerText === 'All is well'");
    assert_eq!(browser.run("return window.loaded_once"), true);
    drop(worker);
    browser.until("document.querySelector('#verdict').innerText === 'The worker does not answer'");
    let console = browser.console();
    let own = console
        .iter()
        .filter(|entry| !entry.contains("ERR_CONNECTION_REFUSED") && !entry.contains("ERR_EMPTY_RESPONSE"));
    assert_eq!(own.collect::<Vec<_>>(), Vec::<&String>::new());
}
