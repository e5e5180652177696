//! `sfgi export --to flamegraph` in a real browser: it draws, a click zooms, the search finds. Needs no root and no Go.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::harness::{Need, Test, plain};
use anyhow::{Context, Result, ensure};
use live_tests::{process::Process, sfgi};

pub(crate) fn tests() -> Vec<Test> {
    vec![plain(a_browser_draws_zooms_and_finds).quick().needs(Need::Program("chromium"))]
}

const TIME: Duration = Duration::from_secs(120);

/// A function of the recorded program that waits in several places.
const FUNCTION: &str = "main.(*shop)";

/// What a user would do once the graph stands: searches for what has `main.` in its name and clicks on the first box of
/// [`FUNCTION`].
const USER: &str = r#"<script><![CDATA[
window.prompt = function () { return "main\\."; };
window.addEventListener("load", function () {
  const click = function (at) { at.dispatchEvent(new MouseEvent("click", { bubbles: true })); };
  click(document.getElementById("search"));
  const clicked = Array.from(document.getElementById("frames").children).find(function (box) {
    return box.querySelector("title")?.textContent.startsWith("main.(*shop)");
  });
  clicked.id = "clicked";
  click(clicked.querySelector("rect"));
});
]]></script></svg>"#;

/// The colour of what a search has found.
const FOUND: &str = "rgb(230,0,230)";

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

/// The child with this name of a box.
fn child<'a>(of: roxmltree::Node<'a, 'a>, name: &str) -> Option<roxmltree::Node<'a, 'a>> {
    of.children().find(|child| child.has_tag_name(("http://www.w3.org/2000/svg", name)))
}

fn title<'a>(of: roxmltree::Node<'a, 'a>) -> &'a str {
    child(of, "title").and_then(|title| title.text()).unwrap_or_default()
}

/// An attribute of a box's rectangle.
fn rect<'a>(of: roxmltree::Node<'a, 'a>, name: &str) -> &'a str {
    child(of, "rect").and_then(|rect| rect.attribute(name)).unwrap_or_default()
}

fn a_browser_draws_zooms_and_finds() -> Result<()> {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/shop.sfgi");
    let dir = tempfile::tempdir()?;
    let [graph, used, picture] = ["graph.svg", "used.svg", "picture.png"].map(|name| dir.path().join(name));
    let mut export = sfgi::command(&["export", "--to", "flamegraph", "-o"])?;
    Process::spawn(export.arg(&graph).arg(&recording))?.wait_code(TIME, 0)?;
    let svg = fs::read_to_string(&graph)?;

    let drawn = browse(dir.path(), &graph, "--dump-dom")?;
    let boxes = |text: &str| text.matches("<g><title>").count();
    ensure!(boxes(&svg) > 20 && boxes(&drawn) == boxes(&svg), "{} boxes of {}", boxes(&drawn), boxes(&svg));

    let (start, _) = svg.rsplit_once("</svg>").context("no end")?;
    fs::write(&used, format!("{start}{USER}"))?;
    let seen = browse(dir.path(), &used, "--dump-dom")?;
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let seen =
        roxmltree::Document::parse_with_options(&seen, options).context("the browser shows no document")?;
    let node = |id: &str| {
        let node = seen.descendants().find(|node| node.attribute("id") == Some(id));
        node.with_context(|| format!("the browser shows nothing called {id}"))
    };
    let clicked = node("clicked")?;
    ensure!(title(clicked).starts_with(FUNCTION), "another box was clicked on");
    ensure!(rect(clicked, "width") == "100.0000%", "what was clicked on is not as wide as the picture");
    let all: Vec<_> = seen
        .descendants()
        .filter(|node| child(*node, "rect").is_some() && child(*node, "title").is_some())
        .collect();
    ensure!(all.len() == boxes(&svg), "{} boxes of {}", all.len(), boxes(&svg));
    let hidden = all.iter().filter(|node| node.attribute("class") == Some("hide")).count();
    ensure!((1..all.len()).contains(&hidden), "what is beside it is gone, what is above it not: {hidden}");
    let named = all.iter().filter(|node| title(**node).contains("main.")).count();
    let marked = all.iter().filter(|node| rect(**node, "fill") == FOUND).count();
    ensure!(named > 0 && marked == named, "{marked} of {named} are marked");
    let matched = node("matched")?.text().unwrap_or_default();
    ensure!(matched.starts_with("Matched: "), "what part was found is not said: {matched}");

    browse(dir.path(), &graph, &format!("--screenshot={}", picture.display()))?;
    let png = fs::read(&picture)?;
    ensure!(size_of_png(&png)? == (1220, 700), "the picture has another size");
    // An empty page of this size is compressed to some three thousand bytes.
    ensure!(png.len() > 10_000, "there is hardly anything on the picture: {} bytes", png.len());
    Ok(())
}
