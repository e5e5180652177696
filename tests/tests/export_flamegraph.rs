//! `sfgi export --to flamegraph` in a real browser: it draws, a click zooms, the search finds. Needs no root and no Go.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use live_tests::{process::Process, sfgi};

const TIME: Duration = Duration::from_secs(120);

/// A function of the recorded program that waits in several places.
const FUNCTION: &str = "main.(*shop)";

/// What a user would do, put behind the graph's own script: clicks on the first box of [`FUNCTION`] and searches
/// for what is called `main.`.
const USER: &str = r#"<script><![CDATA[
window.prompt = function () { return "main."; };
document.getElementById("search").dispatchEvent(new MouseEvent("click"));
const clicked = Array.from(document.querySelectorAll("g.f")).find(function (box) {
  return box.querySelector("title").textContent.startsWith("main.(*shop)");
});
clicked.id = "clicked";
clicked.dispatchEvent(new MouseEvent("click"));
]]></script></svg>"#;

/// Has the browser open a file, with one more argument; gives what it prints.
fn browse(dir: &Path, file: &Path, argument: &str) -> Result<String> {
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1220,700",
    ]);
    chromium.arg(format!("--user-data-dir={}", dir.join("profile").display())).arg(argument);
    let mut chromium =
        Process::spawn(chromium.arg(format!("file://{}", file.display()))).context("no chromium")?;
    chromium.wait_code(TIME, 0)?;
    Ok(chromium.stdout.text())
}

/// Width and height of a PNG.
fn size_of_png(png: &[u8]) -> Result<(u32, u32)> {
    ensure!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 24, "no PNG");
    let number = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
    Ok((number(16), number(20)))
}

#[test]
fn a_browser_draws_zooms_and_finds() -> Result<()> {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/shop.sfgi");
    let dir = tempfile::tempdir()?;
    let [graph, used, picture] = ["graph.svg", "used.svg", "picture.png"].map(|name| dir.path().join(name));
    let mut export = sfgi::command(&["export", "--to", "flamegraph", "-o"])?;
    Process::spawn(export.arg(&graph).arg(&recording))?.wait_code(TIME, 0)?;
    let svg = fs::read_to_string(&graph)?;

    let drawn = browse(dir.path(), &graph, "--dump-dom")?;
    let boxes = |text: &str| text.matches("<g class=\"f").count();
    ensure!(boxes(&svg) > 20 && boxes(&drawn) == boxes(&svg), "{} boxes of {}", boxes(&drawn), boxes(&svg));

    fs::write(&used, svg.replace("</svg>", USER))?;
    let seen = browse(dir.path(), &used, "--dump-dom")?;
    let seen = roxmltree::Document::parse(&seen).context("the browser shows no document")?;
    let node = |id: &str| {
        let node = seen.descendants().find(|node| node.attribute("id") == Some(id));
        node.with_context(|| format!("the browser shows nothing called {id}"))
    };
    let clicked = node("clicked")?;
    let of = |node: roxmltree::Node<'_, '_>, name: &str| {
        let rect = node.children().find(|child| child.has_tag_name("rect"));
        rect.and_then(|rect| rect.attribute(name)?.parse::<f64>().ok()).context("a box without a rectangle")
    };
    ensure!(of(clicked, "width")? == 1200.0, "what was clicked on is as wide as the picture");
    let title = clicked.descendants().find(|node| node.has_tag_name("title")).and_then(|title| title.text());
    ensure!(title.is_some_and(|title| title.starts_with(FUNCTION)), "another box was clicked on");
    let all = || {
        seen.descendants().filter(|node| node.attribute("class").is_some_and(|class| class.starts_with('f')))
    };
    let hidden = all().filter(|node| node.attribute("style").is_some_and(|style| style.contains("none")));
    ensure!((1..boxes(&svg)).contains(&hidden.count()), "what is beside it is gone, what is above it not");
    let matching = |node: &roxmltree::Node<'_, '_>| {
        node.descendants().any(|child| {
            child.has_tag_name("title") && child.text().is_some_and(|text| text.contains("main."))
        })
    };
    let (names, marked) =
        (all().filter(matching).count(), all().filter(|node| node.attribute("class") == Some("f m")).count());
    ensure!(names > 0 && marked == names, "{marked} of {names} are marked");
    ensure!(node("found")?.text() == Some(&format!("{names} found")), "how many were found is said");

    browse(dir.path(), &graph, &format!("--screenshot={}", picture.display()))?;
    let png = fs::read(&picture)?;
    ensure!(size_of_png(&png)? == (1220, 700), "the picture has another size");
    // An empty page of this size is compressed to some three thousand bytes.
    ensure!(png.len() > 10_000, "there is hardly anything on the picture: {} bytes", png.len());
    Ok(())
}
