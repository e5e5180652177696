//! Text, and a graph that Graphviz draws.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::Variant,
    toolchain::Go,
    why::{self, Objects},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(text_has_each_step_on_a_line), live(graphviz_draws_the_graph).needs(Need::Program("dot"))]
}

fn text_has_each_step_on_a_line() -> Result<()> {
    let target = Objects::start(&Go::newest(), Variant::Plain)?;
    let session = target.fact("session")?;
    let pid = target.pid();
    let output = why::run(&["-p", &pid, &session.address])?;
    let (text, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    let heading = format!("{}  main.session · ", session.address);
    ensure!(text.starts_with(&heading) && text.contains(" objects alive\n"), "{text}");
    ensure!(text.contains("\n  main.hub → .sessions → []\n"), "{text}");
    // The variable's object, the map and what belongs to it, and the object.
    let hub = &target.fact("hub")?.address;
    for step in
        [format!("      ·  {hub}  main.hubState"), format!("      []  {}  main.session", session.address)]
    {
        ensure!(text.contains(&step), "{step:?} is not in\n{text}");
    }
    ensure!(!text.contains('\x1b'), "colour, and no terminal");
    ensure!(said.lines().count() == 1 && said.starts_with(&format!("sfgi: PID {pid}: ")), "{said}");
    let dropped = why::text(&["-p", &pid, &target.fact("dropped")?.address, "--no-retained"])?;
    ensure!(dropped.contains("\n  nothing leads to it: the collector will free it\n"), "{dropped}");
    Ok(())
}

fn graphviz_draws_the_graph() -> Result<()> {
    let target = Objects::start(&Go::newest(), Variant::Plain)?;
    let pid = target.pid();
    let addrs = target.facts.iter().map(|fact| fact.address.as_str());
    let args: Vec<&str> =
        ["-p", &pid, "--ways", "8", "--no-retained", "--format", "dot"].into_iter().chain(addrs).collect();
    let graph = why::text(&args)?;
    let drawn = drawn(&graph)?;
    // By the lines `node NAME …` and `edge FROM TO …`.
    let words: Vec<Vec<&str>> = drawn.lines().map(|line| line.split(' ').collect()).collect();
    let edges = words.iter().filter(|line| line[0] == "edge").count();
    ensure!(edges == graph.matches(" -> ").count() && edges > 77, "{edges} edges are drawn of\n{graph}");
    for fact in &target.facts {
        let name = format!("object_{}", why::addr(&fact.address)?);
        let has = |kind: &str, at: usize| {
            words.iter().any(|line| line[0] == kind && line.get(at).is_some_and(|word| *word == name))
        };
        ensure!(has("node", 1), "{fact:?} is not drawn");
        ensure!(has("edge", 2) != fact.ways.is_empty(), "what leads to it is not as in {fact:?}");
    }
    Ok(())
}

/// The graph in the plain form that Graphviz gives it.
fn drawn(graph: &str) -> Result<String> {
    let mut dot = Command::new("dot")
        // Without routing, which takes long and changes nothing of what is drawn.
        .args(["-Tplain", "-Gsplines=false"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = dot.stdin.take().context("stdin is piped")?;
    let graph = graph.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(graph.as_bytes()));
    let output = dot.wait_with_output()?;
    writer.join().expect("no panic")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && stderr.is_empty(), "dot: {}\n{stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
